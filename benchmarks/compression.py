r"""How long a file is, beside what -ELBO says and beside xz, bz2 and zstd, and how fast it is made.

    OMP_NUM_THREADS=1 python benchmarks/compression.py DATA [--run RUN] [--minutes 5] [--latent 40] [--top-down] ...

DATA is what `allegory.data.load` takes: a file of pictures with the arrays train, valid and test, or a table. The model
is that of a run, or one that is trained for so many minutes and kept in --run. All test examples are coded in one file;
of a table all rows, too, which is what the general compressors are given. These have the same examples as bits, bytes,
or as the text of the table, by rows or by columns, whichever is shorter. Decoded they are compared, and timed apart.

    bits/number   of the whole file; of a table bits/row
    net           without the header and what drawing the first latents took
    -ELBO         of the very latents that were drawn
    over          net over -ELBO, in per cent
"""

from __future__ import annotations

import argparse
import bz2
import lzma
import math
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sides import machine, say

import allegory as al
from allegory.compression import read_file, write_file
from allegory.data import load
from allegory.training.defaults import kl_warmup_steps


def contents(x: torch.Tensor) -> list[bytes]:
    """The examples as files that a general compressor may like, each with all there is to know."""
    rows = x.flatten(1).numpy()
    if x.dim() == 2:
        text = [["" if math.isnan(v) else f"{v:.10g}" for v in row] for row in rows.tolist()]
        return ["\n".join(",".join(row) for row in part).encode() for part in (text, list(zip(*text, strict=True)))]
    if rows.max() <= 1:
        return [np.packbits(rows.astype(bool)).tobytes(), rows.astype(np.uint8).tobytes()]
    return [rows.astype(np.uint8).tobytes(), rows.T.astype(np.uint8).tobytes()]


def general(x: torch.Tensor) -> dict[str, int]:
    """Bytes under the compressors that are installed."""
    found = {
        "bz2": min(len(bz2.compress(part, 9)) for part in contents(x)),
        "xz": min(len(lzma.compress(part, preset=9 | lzma.PRESET_EXTREME)) for part in contents(x)),
    }
    if shutil.which("zstd"):
        command = ["zstd", "--ultra", "-22", "-c"]
        found["zstd"] = min(
            len(subprocess.run(command, input=part, capture_output=True, check=True).stdout) for part in contents(x)
        )
    return found


def trained(data: Any, options: argparse.Namespace) -> Any:
    """A model of the data."""
    torch.manual_seed(options.seed)
    likelihood = data.schema.family() if options.likelihood == "columns" else options.likelihood
    if options.top_down or len(options.latent) > 1:
        more: dict[str, Any] = dict(top_down=options.top_down)
    else:
        more = {}
    model = al.architectures.mlp(
        data.event_shape,
        likelihood,
        latent=options.latent,
        hidden=options.hidden,
        data=data.train,
        prior=options.prior,
        components=100,
        **more,
    )
    begun = time.process_time()
    record = al.fit(
        model, data.train, valid=data.valid, minutes=options.minutes, batch_size=options.batch, lr=options.lr,
        lr_warmup=100, ema=0.999, kl_warmup=kl_warmup_steps(len(options.latent), len(data.train)), seed=options.seed,
    )  # fmt: skip
    say(f"{record.epoch} epochs, {time.process_time() - begun:.0f} CPU s, validation ELBO {record.best_bound:.2f}")
    return model


def row(name: str, model: Any, x: torch.Tensor, jobs: int) -> str:
    """A row of the table: one file."""
    path, begun = Path("compression.alg"), time.process_time()
    report = write_file(path, model, x, verify=False, jobs=jobs)
    encoded = time.process_time()
    found = torch.cat(list(read_file(path, model, jobs=jobs)))
    decoded = time.process_time()
    assert found.numpy().tobytes() == x.contiguous().numpy().tobytes()
    path.unlink()
    each = 1 if x.dim() == 2 else report.numbers
    log2 = math.log(2) * each
    others = ", ".join(f"{kind} {8 * size / len(x) / each:.4f}" for kind, size in general(x).items())
    return (
        f"| {name} | {len(x)} | {report.bits / each:.4f} | {report.net_bits / each:.4f} | "
        f"{(report.negative_elbo + report.gaps) / log2:.4f} | {100 * report.overhead:+.3f} | "
        f"{report.initial_bits} | {report.header} | {len(x) / (encoded - begun):,.0f} | "
        f"{len(x) / (decoded - encoded):,.0f} | {others} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="what allegory.data.load takes")
    parser.add_argument("--run", type=Path, help="a run directory: read if it is there, else written")
    parser.add_argument("--likelihood", default="bernoulli", help="of a table columns")
    parser.add_argument("--latent", type=int, nargs="+", default=[40])
    parser.add_argument("--hidden", type=int, nargs="+", default=[300, 300])
    parser.add_argument("--top-down", action="store_true")
    parser.add_argument("--prior", default="standard")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    data = load(options.data)
    if options.run and options.run.exists():
        model = al.load(options.run)
    else:
        model = trained(data, options)
        if options.run:
            al.save(model, options.run)
    say(machine())
    print(
        "| data | N | bits/number | net | -ELBO | over, % | initial bits | header, bytes | encoded/CPU s | "
        "decoded/CPU s | others |\n|" + " --- |" * 11
    )
    print(row(f"{Path(options.data).stem}, test", model, data.test, options.jobs), flush=True)
    if data.test.dim() == 2:
        rows = torch.cat([data.train, data.valid, data.test])
        print(row(f"{Path(options.data).stem}, all rows", model, rows, options.jobs), flush=True)


if __name__ == "__main__":
    main()
