"""Whether this code trains as an earlier commit does, and its records in results/ still hold.

    python benchmarks/same.py 448ce8e --data NW-UCLA/xview --setting full

The options but the commit are those of train.py. Both begin a run in a folder of their own; told is by
how much the initial weights, all that is fed in the first epoch, and the scores and gradients of its
first two steps differ, in parts of their norm (0: equal to the bit).
"""

import argparse
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

ROOT = Path(__file__).resolve().parent.parent


def look(code, made, options):
    """Begin train.py of a folder of code in the current folder, write what is compared (dicts of
    tensors by name) to the file `made`, and end the process."""
    sys.path.insert(0, str(code))
    import engine  # of that folder

    found = {"weights": {}, "feed": {}, "scores": {}, "gradients": {}}

    def beginning(model, batches, optimizer, device, *_, label_smoothing=0.0, **__):
        found["weights"] = {name: weight.clone() for name, weight in model.state_dict().items()}
        model.train()
        for step, (data, label) in enumerate(batches):
            fed = {"joints": data.joints, "place": data.place, "label": label}
            found["feed"] |= {f"{name} {step}": tensor for name, tensor in fed.items()}
            if step < 2:
                scores = model(data)
                told = {"temporal": scores.temporal, "spatial": scores.spatial}
                found["scores"] |= {f"{name} {step}": score.detach() for name, score in told.items()}
                optimizer.zero_grad()
                how = {"label_smoothing": label_smoothing}
                sum(cross_entropy(score, label, **how) for score in told.values()).backward()
                for name, weight in model.named_parameters():
                    found["gradients"][f"{name} {step}"] = weight.grad.clone()
                optimizer.step()
        torch.save(found, made)
        os._exit(0)  # (train.py cannot take this for an error of its own)

    engine.train_epoch = beginning
    sys.argv = ["train.py", "--held_out", "0", "--device", "cpu", "--name", "same", *options]
    runpy.run_path(str(code / "train.py"), run_name="__main__")


def difference(one, other):
    """Of all tensors together, in parts of their norm; infinite where names or shapes differ."""
    shapes = [{name: tensor.shape for name, tensor in found.items()} for found in (one, other)]
    if shapes[0] != shapes[1]:
        return float("inf")
    apart = sum((tensor.double() - other[name]).square().sum() for name, tensor in one.items())
    return float((apart / sum(tensor.double().square().sum() for tensor in one.values())).sqrt())


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("commit")
    parser.add_argument("--data", type=Path, required=True, help="folder of the benchmark")
    arguments, options = parser.parse_known_args()
    options += ["--data", str(arguments.data.resolve())]
    with tempfile.TemporaryDirectory() as folder:
        earlier, packed = Path(folder) / "code", Path(folder) / "code.zip"
        subprocess.run(["git", "archive", "--output", packed, arguments.commit], cwd=ROOT, check=True)
        shutil.unpack_archive(packed, earlier)
        found = []
        for code in (earlier, ROOT):
            made = Path(folder) / f"{len(found)}.pt"
            command = [sys.executable, __file__, "--look", code, made, *options]
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
            found.append(torch.load(made))
            (Path(folder) / "checkpoints").rename(Path(folder) / f"run{len(found)}")
    for about, one in found[0].items():
        print(f"{about:9}  {len(one):4} tensors  {difference(one, found[1][about]):.1e} apart")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--look"]:
        look(Path(sys.argv[2]), sys.argv[3], sys.argv[4:])
    else:
        try:
            main()
        except subprocess.CalledProcessError as error:  # git or train.py has told why
            raise SystemExit(error.returncode) from error
