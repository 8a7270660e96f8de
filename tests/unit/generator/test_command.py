import os

import pytest

from atelier_generator.__main__ import main
from atelier_runtime import images


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
