#!/usr/bin/env python3
"""ResNet-50 at 224 beside torch, interleaved: a round of parchgradd, a round of torch, and so on, so that
clock and neighbours hit both alike. Prints medians, and the median of the rounds' own ratios
torch / parchgradd (above 1: we are faster). On a busy machine the ratio of the shortest times says more.

    bench_torch.py [--net resnet50] [--size 224] [--rounds 7] [--threads 1]
"""
import argparse
import json
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))

import torch  # noqa: E402

import cli  # noqa: E402
import models  # noqa: E402


def torch_round(net, x, calls):
    """Times in ms of forward alone and of backward to the input (no weight gradients): for each the median
    and the shortest."""
    forward, backward = [], []
    for _ in range(calls):
        x = x.detach().requires_grad_(True)
        begin = time.perf_counter()
        y = net(x)
        middle = time.perf_counter()
        y[0, 0].backward()
        end = time.perf_counter()
        forward.append((middle - begin) * 1e3)
        backward.append((end - middle) * 1e3)
    return [(statistics.median(times), min(times)) for times in (forward, backward)]


def our_round(path, threads, calls):
    out = cli.run("bench", "--model", path, "--json", "--runs", calls, "--warm-up", 2,
                  "--set", f"model.threads={threads}", env={"OMP_NUM_THREADS": str(threads)})
    info = json.loads(out.stdout)
    return [(info[name]["median_ms"], info[name]["min_ms"]) for name in ("forward", "backward")]


def report(name, ours, theirs, index):
    """One line: `index` picks what is added up of each round, as a slice of (forward, backward)."""
    def total(rounds, which):
        return [sum(times[which] for times in r[index]) for r in rounds]

    a, b = total(ours, 0), total(theirs, 0)
    ratios = sorted(y / x for x, y in zip(a, b))
    least = [min(total(rounds, 1)) for rounds in (ours, theirs)]
    print(f"  {name:8s} parchgradd {statistics.median(a):7.1f} ms   torch {torch.__version__} "
          f"{statistics.median(b):7.1f} ms   torch / parchgradd {statistics.median(ratios):.2f} "
          f"({ratios[0]:.2f} to {ratios[-1]:.2f});   shortest {least[0]:.1f} and {least[1]:.1f} ms: "
          f"{least[1] / least[0]:.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--net", default="resnet50")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=5, help="in a round (5)")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    net = models.build(args.net, args.size)
    path = models.export(args.net, args.size)
    x = torch.from_numpy(models.test_picture(args.size))[None]
    torch_round(net, x, 3)
    ours, theirs = [], []
    for i in range(args.rounds):
        ours.append(our_round(path, args.threads, args.calls))
        theirs.append(torch_round(net, x, args.calls))
        print(f"round {i}: parchgradd {ours[-1][0][0]:.1f} + {ours[-1][1][0]:.1f} ms, "
              f"torch {theirs[-1][0][0]:.1f} + {theirs[-1][1][0]:.1f} ms", file=sys.stderr)
    print(f"{args.net} {args.size} x {args.size}, {args.threads} thread(s), median of {args.rounds} rounds")
    report("forward", ours, theirs, slice(0, 1))
    report("backward", ours, theirs, slice(1, 2))
    report("both", ours, theirs, slice(0, 2))


if __name__ == "__main__":
    main()
