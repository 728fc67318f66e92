"""The long run; see tests/soak. Not collected by the test command (its name does not begin with test_)."""
import os
import time

import cli
import models
from daemon import Daemon, go_tail, has_go, python_tail
from test_stream import assert_flat, overload


def test_soak(tmp_path, say):
    seconds = float(os.environ.get("PG_SOAK_SECONDS", "600"))
    model = models.export("tiny_resnet", 64, 10, bn="keep")
    labels = [i % 4 for i in range(32)]
    cli.write_calibration(tmp_path / "data", [models.picture(i, 64, 4) for i in range(32)], labels)
    cli.calibrate(model, tmp_path / "data", tmp_path / "stats")
    with Daemon(model, tmp_path, explain={"method": "parchgrad"}, publish={"hwm": 1000},
                parchgrad={"stats": str(tmp_path / "stats"), "select": "instance"}) as d:
        tails = [python_tail(d, tmp_path)] + ([go_tail(d, tmp_path)] if has_go() else [])
        time.sleep(2)
        begin = time.monotonic()
        scrapes = overload(d, seconds)
        frames, resident = assert_flat(scrapes)
        last = scrapes[-1]
        time.sleep(1)
        published = {s: last.get("parchgradd_frames_published_total", stream=s)
                     for s in ("cam0", "cam1")}
        say(f"\n{time.monotonic() - begin:.0f} s, {len(scrapes)} scrapes, all accounts exact; "
            f"{frames:.0f} frames after warm-up, 0 allocations; resident memory "
            f"{resident[0] / 1e6:.1f} MB after warm-up, {resident[1] / 1e6:.1f} MB at the end")
        tenths = [scrapes[i * (len(scrapes) - 1) // 10] for i in range(11)]
        say("  by tenths: " + " ".join(
            f"{m.get('process_resident_memory_bytes') / 1e6:.1f}" for m in tenths) + " MB")
        for stream, count in published.items():
            say(f"  {stream}: received {last.get('parchgradd_frames_received_total', stream=stream):.0f}, "
                f"published {count:.0f}, dropped {last.drops(stream)}")
        seen = [tail.stop() for tail in tails]
        for tail, messages in zip(tails, seen):
            say(f"  {tail.output.stem}: {len(messages)} of {sum(published.values()):.0f} messages")
            assert len(messages) >= .999 * sum(published.values())  # PUB may lose, if rarely
        both = seen[0].keys() & seen[-1].keys()
        different = [key for key in both if seen[0][key] != seen[-1][key]]
        say(f"  {len(both)} messages seen by all, {len(different)} of them with different bytes")
        assert not different
        status, _, _ = d.terminate()
        assert status == 0
