"""Our matrix product against torch.mm (MKL), in turn.

    cargo build --release -p antiphon-kernels --example gemm_bench
    python benches/gemm/compare.py path/to/gemm_bench [--threads 1 4] [--rounds 8] [--shapes "1024 288 288 nt" ...]

For each shape the two run alternately, `rounds` times for `ms` milliseconds each; the best time of each counts. Both
work on the same shapes and layouts and write to an existing output.
"""

import argparse
import subprocess
import sys
import time

SHAPES = """2048 2048 2048 nt
1024 288 288 nt
1024 288 768 nt
1024 768 288 nt
1024 288 32000 nt
1024 32000 288 nn
1024 576 576 nt
1024 576 192 nt
1024 576 1536 nt
1024 1536 576 nt
1024 576 49152 nt
1024 49152 576 nn
576 1024 1536 tn
1024 576 8 nt
1024 8 576 nt
8 1024 576 tn
1 288 768 nt
1 576 1536 nt
4 576 1536 nt
8 576 1536 nt
1 288 32000 nt""".splitlines()


def torch_case(shape):
    import torch

    m, k, n, layout = shape.split()
    m, k, n = int(m), int(k), int(n)
    a = torch.randn(k, m).t() if layout == "tn" else torch.randn(m, k)
    b = torch.randn(n, k).t() if layout == "nt" else torch.randn(k, n)
    c = torch.empty(m, n)

    def run(ms):
        torch.mm(a, b, out=c)
        times, start = [], time.perf_counter()
        while len(times) < 3 or time.perf_counter() - start < ms / 1e3:
            t = time.perf_counter()
            torch.mm(a, b, out=c)
            times.append(time.perf_counter() - t)
        return min(times)

    return run, 2e-9 * m * n * k


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--ms", type=int, default=60)
    parser.add_argument("--shapes", nargs="+", default=SHAPES)
    args = parser.parse_args()

    import torch

    for threads in args.threads:
        torch.set_num_threads(threads)
        ours = subprocess.Popen(
            [args.binary, str(threads), "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        print(f"{threads} threads: GFLOP/s of ours | torch | ratio, best of {args.rounds} alternations")
        for shape in args.shapes:
            run, gflop = torch_case(shape)
            best = [float("inf"), float("inf")]
            for _ in range(args.rounds):
                ours.stdin.write(f"{shape} {args.ms}\n")
                ours.stdin.flush()
                best[0] = min(best[0], float(ours.stdout.readline().split()[0]))
                best[1] = min(best[1], run(args.ms))
            rates = [gflop / t for t in best]
            print(f"{shape:20} {rates[0]:7.1f} | {rates[1]:7.1f} | {rates[0] / rates[1]:.2f}")
            sys.stdout.flush()
        ours.stdin.close()
        ours.wait()


if __name__ == "__main__":
    main()
