import os

import numpy as np
import pytest

from atelier_generator.__main__ import main
from atelier_runtime import images
from atelier_runtime.recipes import read_marks


@pytest.fixture
def environment(plain_models, monkeypatch):
    monkeypatch.setenv("ATELIER_GENERATOR_MODEL_SET", str(plain_models.model_set.folder))
    monkeypatch.setenv("ATELIER_GENERATOR_DEVICE", "cpu")
    monkeypatch.setenv("ATELIER_GENERATOR_CPU_THREADS", "1")


def test_draw_writes_the_image_of_its_seed(environment, tmp_path, capsys):
    small = ["--width", "256", "--height", "264", "--steps", "2", "--seed", "7"]
    for name in ("one.png", "two.png", "three.webp"):
        assert main(["draw", "a cat", "-o", str(tmp_path / name), *small]) == 0
    assert "256x264, seed 7" in capsys.readouterr().out
    one, two, three = (
        images.decode((tmp_path / name).read_bytes(), max_pixels=10**6)
        for name in ("one.png", "two.png", "three.webp")
    )
    assert (one.width, one.height, one.format, three.format) == (256, 264, "png", "webp")
    assert (one.rgb == two.rgb).all()


def test_draw_takes_a_sampler_by_any_of_its_names(environment, tmp_path):
    small = ["--width", "256", "--height", "256", "--steps", "2", "--seed", "7"]
    flags: tuple[list[str], ...] = (
        ["--sampler", "DPM++ 2M Karras"],
        ["--sampler", "dpmpp_2m", "--schedule", "karras"],
        [],
    )
    files = [tmp_path / f"{number}.png" for number in range(len(flags))]
    for file, chosen in zip(files, flags, strict=True):
        assert main(["draw", "a cat", "-o", str(file), *small, *chosen]) == 0
    one, same, other = (file.read_bytes() for file in files)
    assert one == same != other


def test_draw_writes_each_of_several_images(environment, tmp_path, capsys):
    small = ["--width", "256", "--height", "256", "--steps", "2"]
    several = ["-o", str(tmp_path / "cat.png"), "--seed", "7", "--num-images", "2"]
    assert main(["draw", "a cat", *small, *several]) == 0
    out = capsys.readouterr().out
    assert "cat-1.png: 256x256, seed 7\n" in out and "cat-2.png: 256x256, seed 8\n" in out
    assert main(["draw", "a cat", *small, "--seed", "8", "-o", str(tmp_path / "eight.png")]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"cat-1.png", "cat-2.png", "eight.png"}
    first, second, alone = (
        images.decode((tmp_path / name).read_bytes(), max_pixels=10**6).rgb.astype(int)
        for name in ("cat-1.png", "cat-2.png", "eight.png")
    )
    assert abs(second - alone).max() <= abs(first - alone).max() / 2


def test_draw_names_what_is_wrong(environment, tmp_path, capsys, monkeypatch):
    output = str(tmp_path / "image.png")
    assert main(["draw", "a cat", "-o", output, "--width", "100", "--steps", "0", "--num-images", "11"]) == 1
    error = capsys.readouterr().err
    assert all(name in error for name in ("width_px", "num_inference_steps", "num_images"))
    assert main(["draw", "a cat", "-o", str(tmp_path / "image.gif")]) == 2
    assert "--output" in capsys.readouterr().err
    monkeypatch.setenv("ATELIER_GENERATOR_MODEL_SET", str(tmp_path))
    assert main(["draw", "a cat", "-o", output]) == 1
    assert "ATELIER_GENERATOR_MODEL_SET=" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_draw_runs_a_hires_pass(environment, tmp_path, capsys):
    small = ["--width", "256", "--height", "256", "--steps", "2", "--seed", "7", "--refiner-strength", "0.5"]
    hires = ["--hires-pass", "320x264", "--hires-strength", "0.5", "--hires-steps", "4"]
    output = tmp_path / "image.png"
    assert main(["draw", "a cat", "-o", str(output), *small, *hires]) == 0
    picture = images.decode(output.read_bytes(), max_pixels=10**6)
    assert (picture.width, picture.height) == (320, 264)
    recipe = read_marks(output.read_bytes()).recipe
    assert recipe is not None
    request = recipe["request"]
    assert request["hires_pass"] == {"width": 320, "height": 264, "strength": 0.5, "num_inference_steps": 4}
    assert request["refiner_strength"] == 0.5


def test_draw_takes_which_part_of_a_mask_is_drawn_anew(environment, tmp_path):
    image, mask = tmp_path / "image.png", tmp_path / "mask.png"
    image.write_bytes(images.encode(images.Picture(np.full((256, 256, 3), 128, np.uint8)), "png", 90))
    half = np.repeat(np.array([[0] * 128 + [255] * 128], np.uint8), 256, 0)
    mask.write_bytes(images.encode_gray_png(half))
    output = tmp_path / "out.png"
    flags = ["--image", str(image), "--mask", str(mask), "--mask-kind", "black", "--steps", "2"]
    assert main(["draw", "a cat", "-o", str(output), *flags]) == 0
    drawn = images.decode(output.read_bytes(), max_pixels=10**6).rgb
    assert (drawn[:, 128:] == 128).all() and (drawn[:, :128] != 128).any()
    assert main(["draw", "a cat", "-o", str(output), *flags, "--mask-blur", "4"]) == 0
    recipe = read_marks(output.read_bytes()).recipe
    assert recipe is not None
    assert (recipe["request"]["mask_kind"], recipe["request"]["mask_blur_px"]) == ("black", 4)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--hires-steps", "4"], "--hires-steps: requires --hires-pass"),
        (["--hires-strength", "0.5"], "--hires-strength: requires --hires-pass"),
        (["--hires-pass", "100x264"], "hires_pass.width_px: "),
        (["--mask-kind", "black"], "mask_kind: requires an image"),
        (["--refiner-strength", "2"], "refiner_strength: "),
    ],
)
def test_draw_names_flags_that_do_not_go_together(environment, tmp_path, capsys, flags, words):
    assert main(["draw", "a cat", "-o", str(tmp_path / "image.png"), *flags]) == 1
    assert words in capsys.readouterr().err


def test_draw_names_a_size_that_is_none(capsys):
    with pytest.raises(SystemExit):
        main(["draw", "a cat", "--hires-pass", "1536"])
    assert "--hires-pass: '1536' is not a size" in capsys.readouterr().err


def test_draw_reads_weights_if_asked(environment, tmp_path):
    pictures = {}
    for name, prompt, *options in (
        ("text", "a (cat:1.5)"),
        ("plain", "a (cat:1.5)", "--prompt-syntax", "plain"),
        ("weighted", "a (cat:1.5)", "--prompt-syntax", "weighted"),
        ("escaped", "a \\(cat:1.5\\)", "--prompt-syntax", "weighted"),
    ):
        output = tmp_path / f"{name}.png"
        small = ["--width", "256", "--height", "256", "--steps", "2", "--seed", "7", "--guidance-scale", "3"]
        assert main(["draw", prompt, "-o", str(output), *small, *options]) == 0
        pictures[name] = images.decode(output.read_bytes(), max_pixels=10**6).rgb.tobytes()
    assert pictures["text"] == pictures["plain"] == pictures["escaped"] != pictures["weighted"]


def test_help_names_every_setting(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    for name in ("PORT", "MODEL_SET", "DEVICE", "DTYPE", "QUEUE_CAPACITY", "MAX_PIXELS"):
        assert f"ATELIER_GENERATOR_{name} " in out


@pytest.mark.parametrize(("value", "expected"), [(None, "passive"), ("active", "active")])
def test_waiting_threads_leave_the_cpus_to_others(monkeypatch, value, expected):
    monkeypatch.setenv("OMP_WAIT_POLICY", value or "")
    if value is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    assert main(["draw", "a cat", "-o", "image.gif"]) == 2  # refused before torch is imported
    assert os.environ["OMP_WAIT_POLICY"] == expected
