"""What a command imports before it works, no more than it needs, and how it ends: at once, with nothing lost."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from command import FAST, WORDS

from diffedit_cli.engine.networks import fast_imports

UNNEEDED = ("bitsandbytes", "cv2", "flax", "jax", "matplotlib", "onnxruntime", "pandas", "sklearn", "tensorflow",
            "torch._dynamo.eval_frame", "torch._inductor", "torchaudio", "torchvision",
            "sympy", "torch.distributed.tensor", "peft", "trio", "numpy.f2py.f2py2e",
            "transformers.image_processing_utils",
            "scipy.integrate._ode", "scipy.optimize._optimize", "scipy.stats._stats_py", "diffusers.pipelines",
            "compel", "imagecodecs", "diffedit_cli.results.page", "diffedit_cli.results.thumbnails",
            "diffedit_cli.models.hub")  # fmt: skip
EDIT_AND_TELL = """
import atexit, sys
from diffedit_cli.__main__ import main
from diffedit_cli.engine.networks import fast_imports

def tell():
    print(*(f"bare:{name}" for name, module in sys.modules.items() if isinstance(module, fast_imports._Bare)))
    print(*sys.modules, file=sys.stderr)

atexit.register(tell)
main()
"""
ASK_FOR_MORE = """
from diffedit_cli.engine.networks import fast_imports
fast_imports.defer_package_imports()
from diffedit_cli.engine.networks import sd
import sys
assert "diffusers.models.autoencoders.autoencoder_tiny" not in sys.modules
import diffusers.models.transformers
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from diffusers.models.unets import UNet1DModel
assert AutoencoderKL is sd.AutoencoderKL and UNet2DConditionModel is sd.UNet2DConditionModel
assert diffusers.models.transformers.DiTTransformer2DModel is diffusers.DiTTransformer2DModel
fast_imports.defer_package_imports()
assert diffusers.models.unets.UNet1DModel is UNet1DModel
print(AutoencoderTiny.__module__)
"""


def python(code: str, *words: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, check=True)


@pytest.mark.thorough
@pytest.mark.usefixtures("here")
def test_an_edit_imports_only_what_it_needs() -> None:
    told = python(EDIT_AND_TELL, "edit", "cat.png", *WORDS, *FAST, "--no-cache")
    imported, bare = set(told.stderr.split()), set(told.stdout.split())
    assert {"torch", "diffusers.models.unets.unet_2d_condition"} <= imported  # it did edit
    assert sorted(imported & set(UNNEEDED)) == []
    unused = {*fast_imports.EAGER, *fast_imports.UNUSED, *fast_imports.SCANNING, *fast_imports.RESCANNING}
    assert {f"bare:{name}" for name in unused} == bare
    kinds = ("autoencoders", "transformers", "unets")
    theirs = {name for name in imported if name.startswith(tuple(f"diffusers.models.{kind}." for kind in kinds))}
    assert theirs == {
        "diffusers.models.autoencoders.autoencoder_kl",
        "diffusers.models.autoencoders.vae",
        "diffusers.models.transformers.dual_transformer_2d",
        "diffusers.models.transformers.transformer_2d",
        "diffusers.models.unets.unet_2d_blocks",
        "diffusers.models.unets.unet_2d_condition",
    }


@pytest.mark.thorough
def test_what_is_not_imported_is_there_when_it_is_asked_for() -> None:
    assert python(ASK_FOR_MORE).stdout.strip() == "diffusers.models.autoencoders.autoencoder_tiny"


ASK_THE_LIBRARIES = """
from diffedit_cli.engine.networks import fast_imports
fast_imports.alone = True
{}
with fast_imports.quickly():
    from diffedit_cli.engine.networks import families, sd
import diffusers.loaders.single_file_utils as theirs
import transformers, sys
held = transformers
for _ in range(2):
    import transformers
    from transformers import AutoImageProcessor, CLIPTextModel, PreTrainedModel
    assert CLIPTextModel is transformers.CLIPTextModel is held.CLIPTextModel is sd.CLIPTextModel
    assert issubclass(CLIPTextModel, PreTrainedModel) and isinstance(AutoImageProcessor, type)
    assert transformers.models.bert.BertConfig is held.BertConfig
    assert transformers.__version__.split(".") > ["5"]
    with fast_imports.quickly():
        pass
assert theirs.AutoImageProcessor.from_pretrained == AutoImageProcessor.from_pretrained
import numpy, scipy.ndimage
import diffusers.guiders, diffusers.modular_pipelines  # a package of each kind that an edit leaves alone
from diffusers import AutoPipelineForInpainting, FluxKontextPipeline, QwenImageEditPipeline, SanaPipeline
import peft
from numpy.testing import *
assert numpy.polynomial.Polynomial([1, 2])(2) == 5 and assert_equal(1, 1) is None
assert scipy.ndimage.uniform_filter([0, 3, 0]).tolist() == [1, 1, 1]
print(peft.LoraConfig.__name__)
"""


@pytest.mark.thorough
@pytest.mark.parametrize("before", ["", "fast_imports.STAND_INS.clear()"], ids=["", "no name is a stand-in"])
def test_libraries_are_whole_where_someone_asks_for_more(before: str) -> None:
    """Also if their next version asks for names that are not known here, which only takes longer."""
    assert python(ASK_THE_LIBRARIES.format(before)).stdout.strip() == "LoraConfig"


COMPILE = """
from diffedit_cli.engine.networks import fast_imports
with fast_imports.without_unused():
    fast_imports.defer_package_imports()
    from diffedit_cli.engine.networks import families
import sys, torch
assert "torch._dynamo.eval_frame" not in sys.modules
assert torch.compiler.disable(len) is not len
assert "torch._dynamo.eval_frame" in sys.modules
with fast_imports.without_unused():
    assert torch.compiler.disable(len) is not len
print(torch.compile(lambda x: x + 1, backend="eager")(torch.ones(())).item())
"""
COUNT = """
from diffedit_cli.engine.networks import fast_imports
with fast_imports.without_unused():
    fast_imports.defer_package_imports()
    from diffedit_cli.engine.networks import families
import scipy, sys
assert not {"scipy.optimize._optimize", "scipy.stats._stats_py"} & set(sys.modules)
from transformers.loss.loss_for_object_detection import linear_sum_assignment
print(linear_sum_assignment([[2, 1], [1, 2]])[1].tolist(), scipy.stats.norm.cdf(0), scipy.optimize.brentq(abs, 0, 0))
assert {"scipy.optimize._optimize", "scipy.stats._stats_py"} <= set(sys.modules)
"""


@pytest.mark.thorough
def test_the_compiler_is_there_when_it_is_asked_for() -> None:
    assert python(COMPILE).stdout.strip() == "2.0"


@pytest.mark.thorough
def test_scipy_is_there_when_it_is_asked_for() -> None:
    assert python(COUNT).stdout.strip() == "[1, 0] 0.5 0.0"


LEAVE = """
import atexit, sys, threading, types
from diffedit_cli.__main__ import _leave

class Taken:
    def __del__(self):
        print("taken apart")

sys.modules["torch"] = types.ModuleType("torch")
sys.modules["torch"].library = Taken()
atexit.register(print, "exit function")
print("said", end=" ")
{}
_leave(3)
"""


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("", "said exit function\n"),
        ("threading.Timer(0.3, print, ['thread']).start()", "said thread\nexit function\ntaken apart\n"),
        ("del sys.modules['torch']", "said taken apart\nexit function\n"),
    ],
    ids=["torch", "a thread at work", "no torch"],
)
def test_a_command_ends_without_taking_torch_apart(before: str, said: str) -> None:
    ended = subprocess.run([sys.executable, "-c", LEAVE.format(before)], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, said, "")


def test_help_is_plain_text_in_groups_and_needs_no_library_to_draw_it() -> None:
    told = python(EDIT_AND_TELL, "edit", "--help")
    assert re.search(r"\n\nWhat to change:\n  --from <str>", told.stdout)
    assert told.stdout.index("Arguments:") < told.stdout.index("What to change:") < told.stdout.index("Where:")
    assert not {"rich", "diffedit_cli.jobs.execute"} & set(told.stderr.split())
    overview = python(EDIT_AND_TELL, "--help").stdout
    summary = "Keep the program and its model in memory, so that edit, mask and invert start"
    assert " ".join(overview.split()).count(summary) == 1


@pytest.mark.thorough
@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("own", [True, False])
def test_libraries_of_quantisation_are_hidden_in_its_own_process_only(own: bool) -> None:
    """There they would be imported with transformers; in a process of others these go on finding them."""
    code = f"""
import sys
from diffedit_cli.engine.networks import fast_imports
fast_imports.alone = {own}
with fast_imports.quickly():
    from diffedit_cli.engine.networks import families
    families.implementation("sd")
from transformers.utils import is_bitsandbytes_available, is_torchao_available
print(is_bitsandbytes_available(), is_torchao_available(), *({{"bitsandbytes", "torchao"}} & {{*sys.modules}}))
with fast_imports.with_quantisers():
    from bitsandbytes.nn import Linear4bit
    from torchao.quantization import quantize_
"""
    ran = python(code)
    said = ran.stdout.split()
    if own:
        assert said[1:] == ["False"]  # and neither is imported
        assert ran.stderr == ""
    else:
        assert said[:2] == ["True", "True"]
