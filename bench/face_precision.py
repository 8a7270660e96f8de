"""What bfloat16 costs in CodeFormer, by which parts stay in float32: codes that flip, levels that change.

`PYTHONPATH=demo python -m bench.face_precision` takes the demo set's network and degraded drawings that it
was not trained on; `--published` the published shape with the weights and images of the parity tests, and
ParseNet and RRDBNet as well. Each is compared with float32 throughout. Needs a CPU that computes in bfloat16
(AVX512-BF16 or AMX), or much patience.
`--batches` measures something else: how much a result depends on what shares its batch, in both dtypes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from spandrel import ModelLoader
from torch import Tensor

from atelier_restorer.nets.codeformer import CodeFormer, match_statistics
from atelier_restorer.parse import FaceParser
from atelier_runtime.service_status import NetworkRole
from atelier_runtime.weights import ModelSet, load_state_dict
from bench.report import machine, print_json
from tests.parity import recipe
from training.data import draw_face
from training.degrade import degrade_photo

FIDELITIES = (0.0, 0.5, 1.0)
TRANSFORMER = ("position_emb", "feat_emb", "ft_layers", "idx_pred_layer")
IN_FLOAT32: Mapping[str, tuple[str, ...]] = {
    "nothing": (),
    "transformer": TRANSFORMER,
    "encoder and transformer": ("encoder", "quantize", *TRANSFORMER),
}
BATCHES = (2, 3, 4, 8)
CPU = torch.device("cpu")


def in_bfloat16(state: Mapping[str, Tensor], in_float32: tuple[str, ...]) -> CodeFormer:
    """Return the network as it runs on a CPU, in bfloat16, with the named parts in float32."""
    network = CodeFormer.from_state_dict(dict(state)).requires_grad_(False).prepare_for_cpu().eval()
    for name, part in network.named_children():
        part.to(torch.float32 if name in in_float32 else torch.bfloat16)
    if "position_emb" not in in_float32:
        network.position_emb.data = network.position_emb.data.to(torch.bfloat16)
    return network


def restore(network: CodeFormer, face: Tensor) -> tuple[Tensor, np.ndarray]:
    """Return codes (256,) and levels (fidelities, 3, 512, 512); each part gets its own dtype."""
    face = face.to(next(network.encoder.parameters()).dtype, memory_format=torch.channels_last)
    features, lq_feature = network.encoder(face)
    logits = network.predict_codes(lq_feature.to(network.feat_emb.weight.dtype))
    codes = logits.argmax(dim=2).unflatten(1, (network.config.latent_size,) * 2)
    quantized = match_statistics(network.lookup(codes), lq_feature)
    decoded = [network.decode(quantized, features, fidelity)[0].float() for fidelity in FIDELITIES]
    return codes.flatten(), _levels(torch.stack(decoded))


def demo_faces(count: int) -> Iterator[tuple[Mapping[str, Tensor], Tensor]]:
    """Yield the demo network and a degraded drawing (1, 3, 512, 512) in [-1, 1], `count` times."""
    state = load_state_dict(ModelSet.open("demo").require(NetworkRole.FACE_RESTORER).path)
    rng = np.random.default_rng([7, 4])
    torch.manual_seed(7)
    for _ in range(count):
        clean = torch.from_numpy(draw_face(rng)).permute(2, 0, 1)[None].float() / 255
        yield state, (degrade_photo(clean) * 255).round() / 127.5 - 1


def published_faces() -> Iterator[tuple[Mapping[str, Tensor], Tensor]]:
    """Yield weights and image of both seeds of the goldens."""
    for seed in (1, 2):
        pixels = torch.from_numpy(recipe.picture("codeformer", seed)).permute(2, 0, 1)[None]
        yield recipe.state_dict("codeformer", seed), pixels.contiguous().float() / 127.5 - 1


@torch.inference_mode()
def measure(faces: Iterator[tuple[Mapping[str, Tensor], Tensor]]) -> dict[str, object]:
    """Return the figures by what stays in float32."""
    flips: dict[str, list[float]] = {kept: [] for kept in IN_FLOAT32}
    levels: dict[str, list[np.ndarray]] = {kept: [] for kept in IN_FLOAT32}
    for state, face in faces:
        exact = CodeFormer.from_state_dict({key: tensor.float() for key, tensor in state.items()}).eval()
        codes, expected = restore(exact, face)
        for kept, parts in IN_FLOAT32.items():
            found, image = restore(in_bfloat16(state, parts), face)
            flips[kept].append(float((found != codes).float().mean()))
            levels[kept].append(np.abs(image - expected).astype(np.uint8))
    return {
        kept: {
            "codes that flip, %": round(100 * float(np.mean(flips[kept])), 2),
            "max per face, %": round(100 * max(flips[kept]), 2),
            **{
                f"levels at w {fidelity:g}": _spread(np.stack([one[i] for one in levels[kept]]))
                for i, fidelity in enumerate(FIDELITIES)
            },
        }
        for kept in IN_FLOAT32
    }


@torch.inference_mode()
def measure_parser() -> dict[str, object]:
    """Return how many pixels ParseNet puts into another class in bfloat16, and how clear they were before."""
    flips, margins, all_margins = [], [], []
    for seed in (1, 2):
        state, pixels = recipe.state_dict("parsenet", seed), recipe.picture("parsenet", seed)[None]
        exact, low = (
            FaceParser.from_state_dict(dict(state), CPU, dtype).logits(pixels)
            for dtype in (torch.float32, torch.bfloat16)
        )
        first, second = exact.topk(2, dim=1).values.unbind(1)
        differ = exact.argmax(1) != low.argmax(1)
        flips.append(float(differ.float().mean()))
        margins.append(float((first - second)[differ].max()))
        all_margins.append(float((first - second).median()))
    return {
        "pixels of another class, %": [round(100 * share, 2) for share in flips],
        "largest margin of one": [round(margin, 2) for margin in margins],
        "median margin of all": [round(margin, 2) for margin in all_margins],
    }


@torch.inference_mode()
def measure_upscaler() -> dict[str, object]:
    """Return the levels that RRDBNet changes in bfloat16, of the values that are not clipped."""
    found: dict[str, object] = {}
    for name in ("realesrgan_x2plus", "realesrgan_x4plus"):
        network = ModelLoader().load_from_state_dict(dict(recipe.state_dict(name, 1))).model.eval()
        pixels = torch.from_numpy(recipe.picture(name, 1)).permute(2, 0, 1)[None].float() / 255
        exact = network(pixels)
        low = network.to(torch.bfloat16)(pixels.to(torch.bfloat16)).float()
        span = float(exact.max() - exact.min())
        found[name] = _spread(np.asarray((low - exact).abs() * 255 / span)) | {"range": round(span, 1)}
    return found


@torch.inference_mode()
def measure_batches(
    state: Mapping[str, Tensor], faces: list[Tensor], sizes: Sequence[int]
) -> dict[str, object]:
    """Return how much a face's result changes from a batch of its own to larger ones, in both dtypes.

    The first face takes the first and the last position of each batch, the others fill it up; every row is
    compared with the same face alone, and with the same face in the other batches of that size.
    """
    found: dict[str, object] = {}
    for dtype in (torch.float32, torch.bfloat16):
        network = CodeFormer.from_state_dict(dict(state)).prepare_for_cpu().set_dtypes(dtype).eval()
        alone = [_run_batch(network, [face]) for face in faces]
        by_size: dict[str, object] = {}
        for size in sizes:
            rows: dict[int, list[tuple[Tensor, Tensor]]] = {}
            for position in (0, size - 1):
                numbers = [(row - position) % len(faces) for row in range(size)]
                codes, image = _run_batch(network, [faces[number] for number in numbers])
                for row, number in enumerate(numbers):
                    rows.setdefault(number, []).append((codes[row], image[:, row]))
            pairs = [(alone[number], one) for number, several in rows.items() for one in several]
            differences = [
                float((several[0][1] - other[1]).abs().max())
                for several in rows.values()
                for other in several[1:]
            ]
            by_size[f"batch of {size}"] = {
                "rows": len(pairs),
                "codes that flip": sum(int((a[0][0] != b[0]).sum()) for a, b in pairs),
                **{
                    f"levels at w {fidelity:g}": _spread(
                        np.stack(
                            [
                                np.abs(_levels(a[1][i, 0]) - _levels(b[1][i])).astype(np.uint8)
                                for a, b in pairs
                            ]
                        )
                    )
                    for i, fidelity in enumerate(FIDELITIES)
                },
                "max before rounding": round(
                    127.5 * max(float((a[1][:, 0] - b[1]).abs().max()) for a, b in pairs), 5
                ),
                "other position and neighbors in the same size, before rounding": round(
                    127.5 * max(differences), 5
                ),
            }
        found[str(dtype).split(".")[-1]] = by_size
    return found


def _run_batch(network: CodeFormer, faces: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return codes (N, L, L) and images (fidelities, N, 3, 512, 512), about [-1, 1], of one batch."""
    features, lq_feature = network.encode(torch.cat(faces))
    codes = network.predict_codes(lq_feature).argmax(dim=2).unflatten(1, (network.config.latent_size,) * 2)
    quantized = match_statistics(network.lookup(codes), lq_feature)
    decoded = [network.decode(quantized, features, fidelity).float() for fidelity in FIDELITIES]
    return codes, torch.stack(decoded)


def _levels(image: Tensor) -> np.ndarray:
    return np.asarray((image.clamp(-1, 1) + 1).mul(127.5).round())


def _spread(difference: np.ndarray) -> dict[str, float]:
    return {
        "mean": round(float(difference.mean()), 3),
        "p99": float(np.percentile(difference, 99)),
        "max": int(difference.max()),
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", type=int, default=24, help="drawings for the demo network")
    parser.add_argument("--published", action="store_true", help="the published shape, synthetic weights")
    parser.add_argument("--batches", action="store_true", help="what sharing a batch changes")
    parser.add_argument("--sizes", type=int, nargs="+", default=BATCHES, help="batch sizes")
    given = parser.parse_args()
    if given.batches:
        pairs = list(published_faces() if given.published else demo_faces(given.faces))
        threads = torch.get_num_threads()
        found = measure_batches(pairs[0][0], [face for _, face in pairs], given.sizes)
        print_json({"machine": machine(), "threads": threads, "compared with the same face alone": found})
        return
    found = measure(published_faces() if given.published else demo_faces(given.faces))
    others = {"ParseNet": measure_parser(), "RRDBNet": measure_upscaler()} if given.published else {}
    print_json({"machine": machine(), "in float32": found, **others})


if __name__ == "__main__":
    main()
