"""What is saved loads back to the same scores; what is no preference model is refused by name."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from gprl_lightning.core.preference import axis_pairs
from gprl_lightning.models.initialization import from_backbone
from gprl_lightning.models.preference_files import CheckpointError
from gprl_lightning.models.pretrained_preference import load_preference_model, save_preference_model
from tests.tiny import chat, tiny_config, tiny_model, tiny_tokenizer

CHECKPOINTS = Path(__file__).parents[1] / "fixtures" / "gpm_reference" / "checkpoints"
RESPONSES = ["Blue", "Red, I think", "Green"]


@pytest.fixture
def copied(tmp_path):
    def copy(case: str) -> Path:
        return Path(shutil.copytree(CHECKPOINTS / case, tmp_path / case))

    return copy


def rewrite(folder: Path, **tensors: torch.Tensor | None) -> None:
    """Replace tensors (dots written as ``__``) in the folder's one shard; None removes."""
    state = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        state.pop(name.replace("__", "."), None)
        if tensor is not None:
            state[name.replace("__", ".")] = tensor
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("case", ["llama_d6_gate", "gemma2_d4", "llama_bt"])
def test_saved_model_loads_back_to_identical_scores(case, tmp_path):
    model = load_preference_model(
        CHECKPOINTS / case,
        tau=0.3,
        l2_normalize=False,
        eigenvalue_scale="scaled",
        gate_temperature=0.5,
        max_tokens=300,
    )
    save_preference_model(model, tmp_path, base_model="tiny", data_fingerprint="abc")
    again = load_preference_model(tmp_path)
    first, second = (m.compare("Name a colour", RESPONSES) for m in (model, again))
    assert torch.equal(first.vectors, second.vectors)
    assert torch.equal(first.eigenvalues, second.eigenvalues)
    assert torch.equal(first.win_probability, second.win_probability)
    assert again.text.max_tokens == 300
    made = json.loads((tmp_path / "config.json").read_text())["preference_model"]
    assert made["base_model"] == "tiny"
    assert made["data_fingerprint"] == "abc"
    assert (made["tau"], made["l2_normalize"]) == (0.3, False)
    assert made["gated"] == (case == "llama_d6_gate")
    assert made["num_axes"] == {"llama_d6_gate": 3, "gemma2_d4": 2, "llama_bt": 1}[case]
    assert "value_head.weight" in load_file(tmp_path / "model.safetensors")


def test_the_scope_of_the_norm_is_saved_and_acts(tmp_path):
    whole, by_axis = (
        load_preference_model(CHECKPOINTS / "llama_d6_gate", l2_scope=s) for s in ("all", "axis")
    )
    save_preference_model(by_axis, tmp_path)
    first, second, other = (
        m.compare("Name a colour", RESPONSES)
        for m in (by_axis, load_preference_model(tmp_path), whole)
    )
    assert torch.equal(first.vectors, second.vectors)
    ones = torch.ones(3, 3)
    torch.testing.assert_close(axis_pairs(first.vectors).norm(dim=-1), ones)
    torch.testing.assert_close(other.vectors.norm(dim=-1), ones[0])
    # The direction in each plane is the same.
    cosine = torch.cosine_similarity(axis_pairs(first.vectors), axis_pairs(other.vectors), dim=-1)
    torch.testing.assert_close(cosine, ones)


def test_the_gates_temperature_is_saved_and_acts(tmp_path):
    plain, warm = (
        load_preference_model(CHECKPOINTS / "llama_d6_gate", gate_temperature=t) for t in (None, 9)
    )
    save_preference_model(warm, tmp_path)
    first, second, other = (
        m.compare("Name a colour", RESPONSES).eigenvalues
        for m in (warm, load_preference_model(tmp_path), plain)
    )
    assert torch.equal(first, second)
    assert first.std() < 0.5 * other.std()


@pytest.mark.parametrize("arch", ["qwen2", "gpt2"])
def test_new_models_of_other_architectures_load_back(arch, tmp_path):
    model = from_backbone(tiny_model(arch).base_model, tiny_tokenizer()).eval()
    torch.nn.init.normal_(model.prompt_head.weight)
    save_preference_model(model, tmp_path)
    first, second = (
        m.compare("Name a colour", RESPONSES) for m in (model, load_preference_model(tmp_path))
    )
    assert torch.equal(first.vectors, second.vectors)
    assert torch.equal(first.eigenvalues, second.eigenvalues)


def test_heads_are_found_in_any_shard(copied):
    folder = copied("llama_d6_gate")
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(state)
    shards = {"model-00001-of-00002.safetensors": names[::2]}
    shards["model-00002-of-00002.safetensors"] = names[1::2]
    for file, part in shards.items():
        save_file({n: state[n] for n in part}, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, part in shards.items() for name in part}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    whole, parts = (
        load_preference_model(f).compare("Hi", RESPONSES)
        for f in (CHECKPOINTS / "llama_d6_gate", folder)
    )
    assert torch.equal(whole.vectors, parts.vectors)
    assert torch.equal(whole.eigenvalues, parts.eigenvalues)


def test_bfloat16_weights_give_float32_scores_that_are_skew():
    model = load_preference_model(CHECKPOINTS / "llama_d6_gate", dtype="bfloat16")
    assert model.backbone.dtype == torch.bfloat16
    found = model.compare("Name a colour", RESPONSES)
    assert found.vectors.dtype == torch.float32
    assert torch.equal(found.score, -found.score.T)
    exact = load_preference_model(CHECKPOINTS / "llama_d6_gate").compare("Name a colour", RESPONSES)
    torch.testing.assert_close(found.vectors, exact.vectors, rtol=0, atol=0.15)


def test_sequence_classifier_loads_as_bradley_terry(tmp_path):
    """Its rewards are what its own class computes from the template's text, right-padded."""
    torch.manual_seed(0)
    config = tiny_config("llama")
    config.num_labels = 1
    classifier = AutoModelForSequenceClassification.from_config(config).eval()
    tokenizer = tiny_tokenizer()
    classifier.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found = load_preference_model(tmp_path, kind="bradley_terry", num_axes=1).compare(
        "Name a colour", RESPONSES
    )
    texts = [
        tokenizer.apply_chat_template(
            [*chat("Name a colour"), {"role": "assistant", "content": r}], tokenize=False
        )
        for r in RESPONSES
    ]
    batch = tokenizer(
        texts, padding=True, padding_side="right", return_tensors="pt", add_special_tokens=False
    )
    with torch.no_grad():
        logits = classifier(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    torch.testing.assert_close(found.vectors[:, 0], logits.logits[:, 0], rtol=0, atol=1e-5)


def test_classifier_with_more_labels_is_no_gpm(copied):
    folder = copied("llama_bt")
    rewrite(folder, value_head__weight=None, score__weight=torch.zeros(2, 32))
    with pytest.raises(CheckpointError, match=r"Set preference_model\.kind=multi_head"):
        load_preference_model(folder, kind="gpm")


def test_missing_folder():
    with pytest.raises(
        CheckpointError, match=r"preference_model\.path='./nowhere'.*no such folder"
    ):
        load_preference_model("./nowhere")


def test_folder_that_is_no_model(tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_preference_model(tmp_path)


def test_missing_head(copied):
    folder = copied("llama_bt")
    rewrite(folder, value_head__weight=None)
    with pytest.raises(CheckpointError, match=r"expected a head, value_head\.weight"):
        load_preference_model(folder)


def test_odd_head_width(copied):
    folder = copied("llama_d6_gate")
    rewrite(folder, value_head__weight=torch.zeros(5, 32))
    with pytest.raises(CheckpointError, match=r"2k rows .*found 5 rows"):
        load_preference_model(folder)


def test_gate_that_does_not_match(copied):
    folder = copied("llama_d6_gate")
    rewrite(folder, prompt_head__weight=torch.zeros(2, 32))
    with pytest.raises(CheckpointError, match=r"prompt_head\.weight has 2 rows; expected 3"):
        load_preference_model(folder)


def test_head_of_another_width(copied):
    folder = copied("llama_bt")
    rewrite(folder, value_head__weight=torch.zeros(1, 16))
    with pytest.raises(CheckpointError, match="reads 16 entries and the backbone has 32"):
        load_preference_model(folder)


def test_missing_backbone_tensor(copied):
    folder = copied("llama_bt")
    rewrite(folder, model__norm__weight=None)
    with pytest.raises(CheckpointError, match=r"lack 1 tensors, as norm\.weight"):
        load_preference_model(folder)


def test_other_number_of_axes_than_configured():
    with pytest.raises(CheckpointError, match=r"Set preference_model\.num_axes=3"):
        load_preference_model(CHECKPOINTS / "llama_d6_gate", num_axes=2)


def test_other_kind_than_configured():
    with pytest.raises(CheckpointError, match=r"Set preference_model\.kind=bradley_terry"):
        load_preference_model(CHECKPOINTS / "llama_bt", kind="gpm")


def test_chat_template_from_a_file(copied, tmp_path):
    folder = copied("llama_bt")
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    template = settings.pop("chat_template")
    file.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"preference_model\.chat_template"):
        load_preference_model(folder)
    (tmp_path / "template.jinja").write_text(template)
    found = load_preference_model(folder, chat_template=str(tmp_path / "template.jinja"))
    expected = load_preference_model(CHECKPOINTS / "llama_bt")
    assert torch.equal(
        found.compare("Hi", RESPONSES).vectors, expected.compare("Hi", RESPONSES).vectors
    )


def test_importing_the_package_loads_no_torch():
    code = "import sys, gprl_lightning; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("tau", "hot", "number in"),
        ("tau", 0, "number in"),
        ("tau", 1e-44, "number in"),
        ("tau", float("inf"), "number in"),
        ("tau", True, "number in"),
        ("gate_temperature", 0, "number in"),
        ("gate_temperature", -1.0, "number in"),
        ("eigenvalue_scale", "simplx", r"one of simplex \| scaled"),
        ("l2_scope", "axes", r"one of all \| axis"),
        ("l2_normalize", "false", "true or false"),
        ("l2_normalize", 0, "true or false"),
        ("gated", "yes", "true or false"),
        ("text_format", "gmp", "one of gpm"),
        ("values", "answers", "one of conversation"),
        ("kind", "gold!", "one of"),
        ("max_tokens", "many", "a count"),
        ("max_tokens", 0.5, "a count"),
        ("eigenvalue_scal", "scaled", "Did you mean eigenvalue_scale"),
        ("l2_normalise", False, "Did you mean l2_normalize"),
    ],
)
def test_settings_in_a_models_config_are_checked(tmp_path, name, value, found):
    save_preference_model(load_preference_model(CHECKPOINTS / "llama_d6_gate"), tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    config["preference_model"][name] = value
    file.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=rf"config\.json: .*{found}"):
        load_preference_model(tmp_path)
