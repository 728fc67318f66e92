#!/usr/bin/env python3
"""ResNet-50 at 224 beside torch, interleaved: a round of parchgradd, a round of torch, and so on, so that
clock and neighbours hit both alike. Prints medians and the ratio torch / parchgradd (above 1: we are faster).

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
    """Medians in ms of forward alone and of backward to the input (no weight gradients)."""
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
    return statistics.median(forward), statistics.median(backward)


def our_round(path, threads):
    out = cli.run("bench", "--model", path, "--json", "--set", f"model.threads={threads}",
                  env={"OMP_NUM_THREADS": str(threads)})
    info = json.loads(out.stdout)
    return info["forward"]["median_ms"], info["backward"]["median_ms"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--net", default="resnet50")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    net = models.build(args.net, args.size)
    path = models.export(args.net, args.size)
    x = torch.from_numpy(models.test_picture(args.size))[None]
    torch_round(net, x, 3)
    ours, theirs = [], []
    for i in range(args.rounds):
        ours.append(our_round(path, args.threads))
        theirs.append(torch_round(net, x, 5))
        print(f"round {i}: parchgradd {ours[-1][0]:.1f} + {ours[-1][1]:.1f} ms, "
              f"torch {theirs[-1][0]:.1f} + {theirs[-1][1]:.1f} ms", file=sys.stderr)
    print(f"{args.net} {args.size} x {args.size}, {args.threads} thread(s), median of {args.rounds} rounds")
    for name, index in (("forward", slice(0, 1)), ("backward", slice(1, 2)), ("both", slice(0, 2))):
        a = statistics.median(sum(r[index]) for r in ours)
        b = statistics.median(sum(r[index]) for r in theirs)
        print(f"  {name:8s} parchgradd {a:7.1f} ms   torch {torch.__version__} {b:7.1f} ms   "
              f"torch / parchgradd {b / a:.2f}")


if __name__ == "__main__":
    main()
