"""The long run; see tests/soak. Not collected by the test command (its name does not begin with test_)."""
import os
import time

import cli
import models
from daemon import Collector, Daemon, GoTail, digest
from test_stream import assert_flat, overload


def test_soak(tmp_path, say):
    seconds = float(os.environ.get("PG_SOAK_SECONDS", "600"))
    model = models.export("tiny_resnet", 64, 10, bn="keep")
    labels = [i % 4 for i in range(32)]
    cli.write_calibration(tmp_path / "data", [models.picture(i, 64, 4) for i in range(32)], labels)
    cli.calibrate(model, tmp_path / "data", tmp_path / "stats")
    with Daemon(model, tmp_path, explain={"method": "parchgrad"}, publish={"hwm": 1000},
                parchgrad={"stats": str(tmp_path / "stats"), "select": "instance"}) as d:
        python, go = Collector(d), GoTail(d, tmp_path) if GoTail.available() else None
        time.sleep(1)
        begin = time.monotonic()
        scrapes = overload(d, seconds)
        frames = assert_flat(scrapes)
        last = scrapes[-1]
        time.sleep(1)
        messages = [digest(m) for m in python.stop()]
        published = sum(last.by_stream("parchgradd_frames_published_total").values())
        say(f"\n{time.monotonic() - begin:.0f} s, {len(scrapes)} scrapes, all accounts exact; "
            f"{frames:.0f} frames after warm-up, 0 allocations; resident "
            f"{last.get('process_resident_memory_bytes') / 1e6:.1f} MB")
        for stream in ("cam0", "cam1"):
            say(f"  {stream}: received {last.get('parchgradd_frames_received_total', stream=stream):.0f}, "
                f"published {last.get('parchgradd_frames_published_total', stream=stream):.0f}, "
                f"dropped {last.drops(stream)}")
        if go:
            theirs = go.stop()
            say(f"  consumers: Python {len(messages)}, Go {len(theirs)} of {published:.0f} messages")
            assert len(set(messages) & set(theirs)) >= .999 * published
        status, _, _ = d.terminate()
        assert status == 0
