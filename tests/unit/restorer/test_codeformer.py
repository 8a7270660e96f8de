"""The network with narrow layers: sizes are read from tensors, and images of a batch do not interact."""

import subprocess
import sys

import pytest
import torch

from atelier_restorer.nets.codeformer import CodeFormer, CodeFormerConfig, match_statistics
from tests.tiny_restorer import CONFIG, codeformer_state

CONFIGS = [
    CONFIG,
    CodeFormerConfig(),
    CodeFormerConfig(base_width=24, transformer_dim=128, transformer_layers=4, codebook_dim=64),
    CodeFormerConfig(base_width=16, channel_multipliers=(1, 2, 4), latent_size=4, fusion_sizes=(8,)),
    CodeFormerConfig(base_width=8, res_blocks=1, attention_sizes=(32, 16), fusion_sizes=(), mlp_dim=48),
    CodeFormerConfig(base_width=12, attention_sizes=(), transformer_dim=96, codebook_size=7),
]


@pytest.fixture(scope="module")
def network() -> CodeFormer:
    return CodeFormer.from_state_dict(codeformer_state()).eval()


@pytest.fixture(scope="module")
def faces() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(3, 3, 512, 512, generator=generator) * 2 - 1


@pytest.mark.parametrize("config", CONFIGS)
def test_a_configuration_is_read_back_from_its_tensors(config: CodeFormerConfig) -> None:
    with torch.device("meta"):
        state = CodeFormer(config).state_dict()
    assert CodeFormerConfig.from_state_dict(state) == config


def test_sizes_that_follow_by_rule() -> None:
    published = CodeFormerConfig()
    assert (published.heads, published.image_size, published.levels) == (8, 512, 6)
    assert {published.norm_groups(c) for c in (64, 128, 256, 512)} == {32}
    narrow = CodeFormerConfig(base_width=24, transformer_dim=96)
    assert narrow.heads == 1
    assert [narrow.norm_groups(c) for c in (24, 48, 192, 20)] == [3, 6, 24, 5]
    assert CodeFormerConfig(transformer_dim=224).heads == 2, "3 heads do not divide 224"


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        ("position_emb", None, "position_emb is missing"),
        ("position_emb", (200, 16), "200 tokens"),
        ("quantize.embedding.weight", (32,), "1 dimensions"),
        ("encoder.blocks.1.conv1.weight", None, "encoder.blocks.1"),
        ("encoder.blocks.0.weight", (5, 3, 3, 3), "multiples of"),
    ],
)
def test_tensors_that_are_not_a_codeformer(key: str, shape: tuple[int, ...] | None, message: str) -> None:
    state = codeformer_state()
    if shape is None:
        del state[key]
    else:
        state[key] = torch.zeros(shape)
    with pytest.raises(ValueError, match=message):
        CodeFormerConfig.from_state_dict(state)


def test_unexpected_and_missing_tensors_are_refused() -> None:
    with pytest.raises(ValueError, match=r"encoder\.blocks is missing"):
        CodeFormer.from_state_dict({"weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="surplus"):
        CodeFormer.from_state_dict({**codeformer_state(), "surplus": torch.zeros(1)})


@torch.inference_mode()
def test_at_fidelity_0_an_image_is_that_of_the_generator_alone(
    network: CodeFormer, faces: torch.Tensor
) -> None:
    mixed = network(faces, torch.tensor([0.0, 0.7, 0.0])).image
    features, lq_feature = network.encode(faces)
    codes = network.predict_codes(lq_feature).argmax(dim=2).unflatten(1, (16, 16))
    alone = network.generator(match_statistics(network.lookup(codes), lq_feature))
    assert torch.equal(mixed[[0, 2]], alone[[0, 2]])
    assert not torch.allclose(mixed[1], alone[1])
    assert torch.equal(
        network.decode(network.lookup(codes), {}, 0.0), network.generator(network.lookup(codes))
    )
    assert set(features) == set(CONFIG.fusion_sizes)


@torch.inference_mode()
def test_each_image_of_a_batch_is_what_it_is_alone(network: CodeFormer, faces: torch.Tensor) -> None:
    fidelities = torch.tensor([0.2, 0.0, 1.0])
    batch = network(faces, fidelities)
    for i in range(3):
        alone = network(faces[i : i + 1], float(fidelities[i]))
        torch.testing.assert_close(batch.image[i], alone.image[0], atol=1e-4, rtol=1e-4)
        assert torch.equal(batch.codes[i], alone.codes[0])


@torch.inference_mode()
def test_an_image_of_nan_affects_no_other(network: CodeFormer, faces: torch.Tensor) -> None:
    corrupt = faces.clone()
    corrupt[1] = float("nan")
    image = network(corrupt, 0.5).image
    assert not torch.isfinite(image[1]).any()
    torch.testing.assert_close(image[[0, 2]], network(faces, 0.5).image[[0, 2]])


def test_statistics_are_matched_channel_by_channel() -> None:
    content, style = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8) * 4 + 2
    matched = match_statistics(content, style)
    torch.testing.assert_close(matched.mean(dim=(2, 3)), style.mean(dim=(2, 3)))
    torch.testing.assert_close(matched.std(dim=(2, 3)), style.std(dim=(2, 3)), rtol=1e-3, atol=1e-3)


def test_another_size_is_refused_with_the_size(network: CodeFormer) -> None:
    with pytest.raises(ValueError, match="512"):
        network(torch.zeros(1, 3, 256, 256), 0.5)


def test_the_training_machine_needs_torch_alone() -> None:
    code = (
        "import sys; import atelier_restorer.nets.codeformer;"
        "print([m for m in ('pydantic', 'cv2', 'grpc', 'facexlib', 'atelier_runtime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
