#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# torch 2.13.0: torch.load(file, pickle_module=...) with an unpickler that refuses every name still runs code from the file
# if that is a TorchScript archive: it goes to torch.jit.load, and the module's own __setstate__ is called. The suffix does
# not matter. Expected: a refusal, since an unpickler was named, or at least an option to ask for one; only
# weights_only=True refuses it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6

cat > "$folder/program.py" <<'PROGRAM'
import pickle
import sys
import types
import warnings

import torch

warnings.simplefilter("ignore")
print("torch", torch.__version__)


class Refusing(pickle.Unpickler):
    def find_class(self, module, name):
        raise pickle.UnpicklingError(f"asked for {module}.{name}")


refusing = types.ModuleType("refusing")
refusing.Unpickler = Refusing
refusing.load = lambda file, **options: Refusing(file, **options).load()


class Harmless(torch.nn.Module):
    def forward(self, x):
        return x

    @torch.jit.export
    def __getstate__(self) -> int:
        return 3

    @torch.jit.export
    def __setstate__(self, state: int) -> None:
        print("code from the file ran")
        self.training = False


torch.jit.save(torch.jit.script(Harmless()), "scripted.pth")
torch.save({"weights": torch.ones(2)}, "usual.pth")
for name in ("usual.pth", "scripted.pth"):
    try:
        found = torch.load(name, pickle_module=refusing, weights_only=False)
        print(name, "was read as", type(found).__name__)
    except Exception as e:
        print(name, "was refused:", e)
        if name == "scripted.pth":
            print("CHANGED: the unpickler that was named is used")
            sys.exit(1)
PROGRAM
cd "$folder"
"$folder/venv/bin/python" program.py | tee said
grep -q "code from the file ran" said
