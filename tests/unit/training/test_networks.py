"""The parts of the training: anchors and losses, degradation, codebook, averaged loop, tokenizer."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import drawing
from atelier_restorer import detect as served
from training import boxes
from training.autoencoder import build_autoencoder, fold_statistics
from training.codebook import EmaCodebook
from training.degrade import blur, degrade_face, jitter_colors, jpeg
from training.detector import Scene, mosaic, random_affine
from training.diffusion import CaptionTokens, build_scheduler, repetitions, stratified_times
from training.faces import nearest_codes
from training.loop import EXPORT, Loop, Recipe, load_export, read_facts
from training.options import Options, parse_options
from training.profile import CPU
from training.refiner import crop_pairs, mix
from training.tokenizer import build_tokenizer

Outputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def options_for(folder: Path, *more: str) -> Options:
    return parse_options("test", ["--out", str(folder / "autoencoder"), *more])


@pytest.mark.parametrize("size", [(256, 256), (320, 200), (641, 643)])
def test_anchors_are_those_of_the_service(size: tuple[int, int]) -> None:
    ours = boxes.anchors(*size, torch.device("cpu"))
    torch.testing.assert_close(ours, served.make_anchors(*size), atol=1e-6, rtol=0)


def perfect_outputs(box: torch.Tensor, five: torch.Tensor, priors: torch.Tensor) -> Outputs:
    """What a network that knows the one face would return at every anchor."""
    center = ((box[:2] + box[2:]) / 2 - priors[:, :2]) / (boxes.CENTER_VARIANCE * priors[:, 2:])
    size = torch.log((box[2:] - box[:2]) / priors[:, 2:]) / boxes.SIZE_VARIANCE
    points = (five - priors[:, None, :2]) / (boxes.CENTER_VARIANCE * priors[:, None, 2:])
    overlaps = boxes.iou(boxes.corners(priors), box[None])[:, 0]
    is_face = overlaps > boxes.MIN_FACE_IOU
    is_face[overlaps.argmax()] = True
    scores = torch.stack((torch.where(is_face, -9.0, 9.0), torch.where(is_face, 9.0, -9.0)), -1)
    return torch.cat((center, size), -1)[None], scores[None], points.flatten(1)[None]


def test_multibox_loss_is_zero_for_the_truth_and_counts_each_mistake() -> None:
    priors = boxes.anchors(256, 256, torch.device("cpu"))
    box = torch.tensor([0.3, 0.2, 0.7, 0.75])
    five = torch.tensor([[0.4, 0.4], [0.6, 0.4], [0.5, 0.5], [0.42, 0.62], [0.58, 0.62]])
    outputs = perfect_outputs(box, five, priors)
    truth = (box.view(1, 1, 4), five.view(1, 1, 5, 2), torch.ones(1, 1, dtype=torch.long))
    right = boxes.multibox_loss(outputs, *truth, priors)
    assert all(float(loss) < 1e-4 for loss in right)

    located, scores, points = outputs
    assert float(boxes.multibox_loss((located + 1, scores, points), *truth, priors)[0]) > 1
    assert float(boxes.multibox_loss((located, scores.flip(-1), points), *truth, priors)[1]) > 1
    assert float(boxes.multibox_loss((located, scores, points + 1), *truth, priors)[2]) > 1
    # The same output is wrong where the face is absent, and ignored where it is cut.
    absent = boxes.multibox_loss(outputs, truth[0], truth[1], -torch.ones(1, 1, dtype=torch.long), priors)
    cut = boxes.multibox_loss(outputs, truth[0], truth[1], torch.zeros(1, 1, dtype=torch.long), priors)
    assert float(absent[1]) > 1 > float(cut[1])

    decoded, landmarks = boxes.decode(located, points, priors)
    torch.testing.assert_close(decoded[0, 100], box, atol=1e-4, rtol=0)
    torch.testing.assert_close(landmarks[0, 100], five, atol=1e-4, rtol=0)


def marked_picture() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A gray picture with a red left and a blue right eye, and its face."""
    picture = torch.full((1, 3, 256, 256), 0.5)
    five = torch.tensor([[110.0, 100.0], [150.0, 100.0], [130.0, 120.0], [115.0, 140.0], [145.0, 140.0]])
    for (x, y), color in zip(five[:2].long().tolist(), ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0)), strict=True):
        picture[0, :, y - 6 : y + 7, x - 6 : x + 7] = torch.tensor(color)[:, None, None]
    return picture, torch.tensor([[[95.0, 80.0, 165.0, 155.0]]]), five.view(1, 1, 5, 2)


def color_at(scene: Scene, point: torch.Tensor) -> torch.Tensor:
    side = scene.images.shape[-1]
    x, y = (point * side).floor().long().tolist()
    return scene.images[0, :, y, x]


def test_moved_landmarks_follow_their_pixels_and_eyes_keep_their_sides() -> None:
    checked = 0
    for seed in range(60):
        torch.manual_seed(seed)
        scene = random_affine(*marked_picture(), side=256, shrink=False)
        if scene.counted[0, 0] != 1:
            continue
        eyes = [color_at(scene, scene.landmarks[0, 0, i]) for i in (0, 1)]
        reds = [float(color[0] - color[2]) for color in eyes]
        # The left eye in the image is the red one, or the blue one of a mirrored image.
        assert abs(reds[0]) > 0.5 and reds[0] == pytest.approx(-reds[1], abs=0.4)
        assert scene.landmarks[0, 0, 0, 0] < scene.landmarks[0, 0, 1, 0]
        checked += 1
    assert checked > 20


def test_tiles_keep_faces_on_their_pixels() -> None:
    picture, box, five = marked_picture()
    four = Scene(picture.repeat(4, 1, 1, 1), box.repeat(4, 1, 1) / 256, five.repeat(4, 1, 1, 1) / 256,
                 torch.ones(4, 1, dtype=torch.long))  # fmt: skip
    scene = mosaic(four)
    assert scene.images.shape == (1, 3, 512, 512) and scene.counted.shape == (1, 4)
    for face in range(4):
        torch.testing.assert_close(
            color_at(scene, scene.landmarks[0, face, 0]), torch.tensor([1.0, 0.0, 0.0])
        )


def test_jpeg_loses_little_at_high_quality_and_much_at_low() -> None:
    drawn = torch.from_numpy(drawing.draw(np.random.default_rng(1), 100).image)  # not a multiple of 8
    picture = drawn.permute(2, 0, 1)[None].float() / 255
    fine, coarse = jpeg(picture, 98, 98), jpeg(picture, 5, 5)
    assert fine.shape == picture.shape
    assert float((fine - picture).abs().mean()) < 0.01 < float((coarse - picture).abs().mean())


def test_degradation_keeps_shape_and_range_and_loses_detail() -> None:
    torch.manual_seed(2)
    picture = torch.rand(4, 3, 128, 128)
    for degrade in (jitter_colors, lambda x: blur(x, 2.0), lambda x: degrade_face(x, None)):
        degraded = degrade(picture)
        assert degraded.shape == picture.shape
        assert float(degraded.min()) >= -1e-4 and float(degraded.max()) <= 1 + 1e-4
    assert float(blur(picture, 2.0).var()) < 0.2 * float(picture.var())
    torch.testing.assert_close(blur(torch.full((1, 3, 32, 32), 0.3), 3.0), torch.full((1, 3, 32, 32), 0.3))


def test_moving_codebook_finds_clusters_and_revives_unused_codes() -> None:
    torch.manual_seed(3)
    centers = torch.tensor([[4.0, 0.0], [0.0, 4.0], [-4.0, 0.0], [0.0, -4.0]])
    rows = torch.full((8, 2), 100.0)
    codebook = EmaCodebook(rows)
    codebook.initialize(centers[torch.randint(4, (2, 4, 4))].permute(0, 3, 1, 2))
    rows[4:] = 100.0  # four rows that are never the nearest
    codebook.sums[4:] = 100.0
    for step in range(300):
        latent = (centers[torch.randint(4, (2, 4, 4))] + 0.1 * torch.randn(2, 4, 4, 2)).permute(0, 3, 1, 2)
        codebook.update(latent, nearest_codes(latent, rows), revive=step % 20 == 0)
    assert float(rows.abs().max()) < 6
    distances = (centers[:, None] - rows[None]).norm(dim=2).min(1).values
    assert float(distances.max()) < 0.5


def test_nearest_codes_are_the_nearest() -> None:
    torch.manual_seed(4)
    latent, rows = torch.randn(2, 5, 3, 3), torch.randn(7, 5)
    expected = torch.cdist(latent.permute(0, 2, 3, 1).reshape(-1, 5), rows).argmin(1).view(2, 3, 3)
    assert torch.equal(nearest_codes(latent, rows), expected)


def test_folding_normalizes_latents_and_does_not_change_images() -> None:
    torch.manual_seed(5)
    network = build_autoencoder(CPU).eval()
    pictures = torch.rand(8, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        before = network.decode(network.encode(pictures).latent_dist.mean).sample
        fold_statistics(network, pictures)
        latents = network.encode(pictures).latent_dist.mean
        after = network.decode(latents).sample
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(CPU.latent_channels), atol=1e-3, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(CPU.latent_channels), atol=1e-3, rtol=0)


def small_loop(options: Options) -> tuple[Loop, torch.nn.Linear]:
    torch.manual_seed(options.seed)
    network = torch.nn.Linear(3, 2)
    return Loop(options, Recipe(learning_rate=0.05, warm_up=1), {"line": network}, smoke_steps=4), network


def take_steps(loop: Loop, network: torch.nn.Linear) -> None:
    for _ in loop.steps():
        loop.update((network(torch.ones(1, 3)) - 1).square().mean())


def test_loop_resumes_where_it_stopped(tmp_path: Path) -> None:
    loop, network = small_loop(options_for(tmp_path, "--smoke"))
    take_steps(loop, network)
    loop.save()
    again, same = small_loop(options_for(tmp_path, "--smoke", "--resume", "--seed", "9"))
    assert again.step == 4
    assert torch.equal(same.weight, network.weight)
    torch.testing.assert_close(again.average, loop.average)
    assert len(again.optimizer.state_dict()["state"]) == len(loop.optimizer.state_dict()["state"]) == 2
    take_steps(again, same)
    assert again.step == 8


def test_loop_continues_from_the_export_alone(tmp_path: Path) -> None:
    options = options_for(tmp_path, "--smoke")
    loop, network = small_loop(options)
    take_steps(loop, network)
    loop.finish()
    (options.out / "checkpoint.pt").unlink()
    again, same = small_loop(options_for(tmp_path, "--smoke", "--resume", "--seed", "9"))
    assert again.step == 4
    torch.testing.assert_close(same.weight, network.weight, atol=2e-3, rtol=0)


def test_an_optimizer_that_begins_with_trained_weights_warms_up_again(tmp_path: Path) -> None:
    loop, _ = small_loop(options_for(tmp_path, "--minutes", "100"))
    loop.step, loop.minutes_before = 500, 60.0
    loop.export(loop.averaged())
    again, _ = small_loop(options_for(tmp_path, "--minutes", "100", "--resume"))
    again.recipe = Recipe(learning_rate=0.05, warm_up=100)
    rates = []
    for again.step in (500, 549, 599, 700):
        rates.append(again._learning_rate())
    assert rates[0] == pytest.approx(rates[2] / 100, rel=0.01)
    assert rates[1] == pytest.approx(rates[2] / 2, rel=0.01)
    assert rates[2] == pytest.approx(rates[3], rel=0.01)


def test_loop_skips_a_step_that_overflowed(tmp_path: Path) -> None:
    loop, network = small_loop(options_for(tmp_path, "--smoke"))
    before = network.weight.clone()
    loop.update(network(torch.full((1, 3), float("inf"))).sum())
    assert torch.equal(network.weight, before)
    assert all(torch.isfinite(value).all() for value in loop.average.values())


def test_export_keeps_facts_and_weights_in_half_precision(tmp_path: Path) -> None:
    options = options_for(tmp_path, "--smoke")
    loop, network = small_loop(options)
    loop.export(quality=3.5)
    facts = read_facts(options.out / EXPORT)
    assert facts["quality"] == 3.5 and facts["step"] == 0 and facts["profile"] == options.profile.name
    loaded = load_export(options.out / EXPORT, "line", torch.nn.Linear(3, 2))
    torch.testing.assert_close(loaded.weight, network.weight.half().float())


def test_every_word_of_the_captions_is_one_token() -> None:
    tokenizer = build_tokenizer()
    letters_only = [word for word in drawing.vocabulary() if word.isalpha()]
    split = [word for word in letters_only if len(tokenizer.tokenize(word)) != 1]
    assert split == []
    assert tokenizer("A Smiling MAN").input_ids == tokenizer("a smiling man").input_ids


def test_unknown_words_are_split_and_none_is_lost() -> None:
    tokenizer = build_tokenizer()
    for text in ("zxqv", "naïve café", "日本", "🙂"):
        ids = tokenizer(text).input_ids
        assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
        assert len(ids) > 2 and tokenizer.eos_token_id not in ids[1:-1]
    padded = tokenizer("a man", padding="max_length", max_length=77).input_ids
    assert len(padded) == 77 and set(padded[4:]) == {tokenizer.eos_token_id}


def test_a_resumed_run_keeps_its_tokenizer_and_a_new_one_learns_the_current_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, captions = tmp_path / "tokenizer", ["a man", "a clock"]
    monkeypatch.setattr(drawing, "vocabulary", lambda: ["a", "man"])
    began = CaptionTokens(captions, folder, torch.device("cpu"), 0)
    monkeypatch.undo()
    (tmp_path / EXPORT).touch()
    resumed = CaptionTokens(captions, folder, torch.device("cpu"), 0)
    assert torch.equal(began.captions, resumed.captions)
    (tmp_path / EXPORT).unlink()
    afresh = CaptionTokens(captions, folder, torch.device("cpu"), 0)
    assert len(afresh.tokenizer) > len(resumed.tokenizer) == len(began.tokenizer)


def test_the_refiner_is_trained_on_what_the_sampler_passes_to_it() -> None:
    clean, upscaled, noise = torch.randn(3, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).unbind(0)
    scheduler: Any = build_scheduler()
    scheduler.set_timesteps(25)
    times, sigmas = scheduler.timesteps[17:], scheduler.sigmas[17:].float()
    scheduler.set_begin_index(17)
    latents = scheduler.add_noise(upscaled, noise, times[:1])
    for time, sigma in zip(times, sigmas, strict=False):
        given, v = mix(clean, upscaled, noise, sigma.view(1), sigmas[:1])
        assert torch.allclose(scheduler.scale_model_input(latents, time), given, atol=1e-4)
        latents = scheduler.step(v, time, latents).prev_sample
    assert torch.allclose(latents, clean, atol=1e-4)


def test_parts_of_drawing_and_upscaled_image_cover_the_same_pixels_and_one_is_around_a_face() -> None:
    drawn = drawing.draw(np.random.default_rng(4), 256, "portrait")
    cut = crop_pairs(drawn, drawn.image, 128, np.random.default_rng(0))
    assert [part.shape for part in cut] == [(2, 128, 128, 3)] * 2
    assert all(np.array_equal(*part) for part in cut)
    assert len(crop_pairs(drawing.draw(np.random.default_rng(4), 256, "sunset"), drawn.image, 128,
                     np.random.default_rng(0))) == 1  # fmt: skip
    assert len(crop_pairs(drawn, drawn.image, 256, np.random.default_rng(0))) == 1


def test_hats_are_sampled_most_often() -> None:
    captions = [
        "a man with a red cap and a beard",
        "a woman with glasses",
        "a man",
        "a capybara, hatless",
        "a mustache",
    ]
    assert repetitions(captions).tolist() == [4, 2, 1, 1, 2]


def test_times_favor_noise_and_reach_both_ends() -> None:
    torch.manual_seed(0)
    times = torch.cat([stratified_times(16, torch.device("cpu")) for _ in range(500)])
    assert (int(times.min()), int(times.max())) == pytest.approx((5, 999), abs=6)
    assert float((times > 500).float().mean()) == pytest.approx(1 - 0.5**1.5, abs=0.01)
