"""Recipes of heads: from feature files to a bundle that spots, as a user runs them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command import Touchline

from engines.bundle import open_bundle
from engines.labels import SOCCERNET_LABELS
from training.data.features import FeatureHalf
from training.encodings import decode_spotting
from training.measure import scored
from training.recipes import RECIPES
from training.recipes.heads import FEATURES, HeadRecipe
from training.recipes.papers import recipes

SMALL = sorted(name for name in recipes() if name.startswith("small-"))
SECONDS = 80


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two matches a split, whose rows say when something happens."""
    root = tmp_path_factory.mktemp("features")
    rng = np.random.default_rng(0)
    for split, matches in (("train", ("a", "b")), ("valid", ("c",)), ("test", ("d",))):
        for match in matches:
            folder = root / "league" / "season" / match
            folder.mkdir(parents=True)
            annotations = []
            for half in (1, 2):
                visual = rng.standard_normal((SECONDS, 256)).astype(np.float32) * 0.1
                for second in range(5, SECONDS - 5, 6):
                    label = int(rng.integers(5))
                    visual[second, label * 10 : label * 10 + 10] += 3
                    annotations.append(
                        {
                            "gameTime": f"{half} - {second // 60:02d}:{second % 60:02d}",
                            "label": SOCCERNET_LABELS[label],
                            "position": str(second * 1000 + 300),
                            "visibility": "visible",
                        }
                    )
                np.save(folder / f"{half}_demo_visual.npy", visual)
                np.save(folder / f"{half}_demo_audio.npy", rng.standard_normal((SECONDS, 128)).astype(np.float32))
            (folder / "Labels-v2.json").write_text(json.dumps({"annotations": annotations}))
        (root / f"{split}.txt").write_text("".join(f"league/season/{m}\n" for m in matches))
    return root


def halves(features: Path, recipe: HeadRecipe, split: str) -> list[FeatureHalf]:
    return recipe.halves(features, split)


@pytest.mark.parametrize("name", SMALL)
def test_every_small_recipe_learns_from_a_batch_and_scores_every_row(features: Path, name: str) -> None:
    torch.manual_seed(0)
    recipe = recipes()[name]()
    task = recipe.task(halves(features, recipe, "train"), halves(features, recipe, "valid"), seed=1)
    batch = next(iter(task.batches(1)))
    task.net.train()
    loss, _ = task.loss(task.net, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    reached = [p for p in task.net.parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert torch.isfinite(loss)
    assert len(reached) >= 2
    with torch.no_grad():
        found = task.score(task.net.eval(), task.valid[0].load())
        watched = task.validate(task.net)
    assert found.scores_TC.shape == (SECONDS, 17)
    assert found.scores_TC.min() >= 0
    assert found.scores_TC.max() <= 1
    assert set(watched) == {"score", "loss"}


def test_every_published_recipe_builds_a_network_for_its_features() -> None:
    """On the meta device, where even HMTAS of the published size takes no memory."""
    widths = {"tpn": 2048, "gta": 2048, "vtn": 384, "ircsn": 2048, "i3d": 2048, "audio": 128}
    counts = {}
    for name, make in recipes().items():
        recipe = make()
        if name.startswith("small-"):
            continue
        with torch.device("meta"):
            own = widths if recipe.features == "baidu" else {"visual": 512, "audio": 512, "graph": 304}
            if recipe.features == "resnet2048":
                own = {"visual": 2048}
            network = build(recipe, {s: own[s] for s in recipe.streams})
        counts[name] = sum(p.numel() for p in network.parameters())
    assert counts["hmtas"] == counts["hmtas-m7"] == counts["hmtas-m7-l5"] == 48_660_606
    assert counts["calf"] == counts["calf-pool"] == counts["calf-seg-pool"] == 578_245
    assert counts["netvlad++"] == 1_704_466
    assert counts["baidu-netvlad++"] == 5_046_802


def build(recipe: HeadRecipe, widths: dict[str, int]) -> torch.nn.Module:
    from training.models.calf import Calf
    from training.models.rmsnet import RmsNet
    from training.recipes.clips import ClipRecipe
    from training.recipes.heads import ChunkRecipe, WindowRecipe

    if isinstance(recipe, ChunkRecipe):
        return Calf(recipe.config(widths))
    if isinstance(recipe, ClipRecipe):
        return RmsNet(recipe.config(widths))
    assert isinstance(recipe, WindowRecipe)
    return recipe.build(widths, recipe.rows)


def test_an_epoch_depends_on_seed_and_epoch_alone(features: Path) -> None:
    for name in ("small-netvlad++", "small-calf", "small-hmtas-mixup", "small-hmtas-balanced"):
        recipe = recipes()[name]()
        one, again, other = (
            recipe.task(halves(features, recipe, "train"), halves(features, recipe, "valid"), seed)
            for seed in (1, 1, 2)
        )
        batches = [next(iter(task.batches(3))) for task in (one, again, other)]
        assert torch.equal(batches[0].rows["visual"], batches[1].rows["visual"])
        assert not torch.equal(batches[0].rows["visual"], batches[2].rows["visual"])


@pytest.mark.parametrize("name", ["small-hmtas-m1", "small-calf"])
def test_train_spot_tune_and_export_make_bundles_that_say_what_the_network_says(
    touchline_here: Touchline, features: Path, tmp_path: Path, name: str
) -> None:
    bundle = tmp_path / "bundle"
    ended = touchline_here("train", name, "--data", features, "--out", bundle, "--epochs", "2", "--accelerator", "cpu")
    assert ended.code == 0, ended.err
    manifest = open_bundle(bundle).manifest
    assert set(manifest.calibration) == set(manifest.labels)
    assert set(manifest.measured) == {"valid", "test"}

    recipe = RECIPES[name]()
    assert isinstance(recipe, HeadRecipe)
    exported = tmp_path / "exported"
    checkpoint = tmp_path / "bundle.run" / "best.ckpt"
    ended = touchline_here("export", checkpoint, "--data", features, "--out", exported)
    assert ended.code == 0, ended.err
    assert (exported / "head.onnx").read_bytes() == (bundle / "head.onnx").read_bytes()

    tuned = tmp_path / "tuned"
    ended = touchline_here("tune", bundle, "--data", features, "--out", tuned, "--no-calibration")
    assert ended.code == 0, ended.err
    assert open_bundle(tuned).manifest.calibration == {}
    task = recipe.task(recipe.halves(features, "train"), recipe.halves(features, "valid"), 1)
    state = torch.load(checkpoint, weights_only=True)
    task.net.load_state_dict(state["net"])
    half = recipe.halves(features, "test")[0].load()
    with torch.no_grad():
        wanted = task.score(task.net.eval(), half)
    found = scored_on(tuned, half.rows, half.actions)
    if name == "small-calf":  # live, its chunks lie elsewhere than offline; one chunk is what both score alike
        chunk = half.rows["visual"][None, :60]
        with torch.no_grad():
            anchors = task.net({"visual": torch.from_numpy(chunk)})[1].numpy()
        said = open_bundle(tuned).head.run({"visual": chunk})["scores"]
        assert np.allclose(said, np.maximum(decode_spotting(anchors, 60, exact=True), 0), atol=1e-5)
        assert said.max() > 0
        return
    assert np.allclose(found.scores_TC, wanted.scores_TC, atol=1e-5)
    assert np.array_equal(found.times_TC, wanted.times_TC)


def scored_on(bundle: Path, rows, actions):  # type: ignore[no-untyped-def]
    from engines.frontend import embeddings_of

    opened = open_bundle(bundle)
    return scored(opened, embeddings_of(rows, opened.manifest), actions)


def test_spotting_with_a_trained_bundle_finds_what_the_rows_show(
    touchline_here: Touchline, features: Path, tmp_path: Path
) -> None:
    bundle, results = tmp_path / "bundle", tmp_path / "results"
    data = ("--data", features, "--out", bundle)
    assert touchline_here("train", "small-max", *data, "--epochs", "25", "--accelerator", "cpu").code == 0
    assert touchline_here("spot", features, "--bundle", bundle, "--out", results).code == 0
    ended = touchline_here("evaluate", results, "--labels", features, "--metric", "loose", "--json")
    assert json.loads(ended.out)["a_mAP_occurring"] > 0.5


def test_protocol_2_learns_from_every_split_and_decides_as_protocol_1_chose(
    touchline_here: Touchline, features: Path, tmp_path: Path
) -> None:
    train = ("train", "small-max", "--data", features, "--epochs", "1", "--accelerator", "cpu")
    assert touchline_here(*train, "--out", tmp_path / "p1").code == 0
    ended = touchline_here(*train, "--out", tmp_path / "p2", "--decide-as", tmp_path / "p1")
    assert ended.code == 0, ended.err
    one, two = (open_bundle(tmp_path / name).manifest for name in ("p1", "p2"))
    assert two.decision == one.decision
    assert two.calibration == one.calibration
    assert two.measured == {}
    assert two.provenance["data"] == one.provenance["data"]
    history = [m.provenance["history"][0] for m in (one, two)]  # type: ignore[index]
    assert history[1]["step"] > history[0]["step"]
    assert "valid_score" not in history[1]


def test_a_folder_without_the_recipes_features_is_one_sentence(touchline_here: Touchline, features: Path) -> None:
    ended = touchline_here("train", "calf", "--data", features, "--out", features / "out")
    assert ended.code != 0
    assert "ResNET_TF2_PCA512" in ended.complaint


def test_an_imported_bundle_keeps_its_rule_unless_told_otherwise(
    touchline_here: Touchline, features: Path, tmp_path: Path
) -> None:
    state = {"fc.weight": torch.zeros(18, 128), "fc.bias": torch.linspace(-3, 0, 18)}
    torch.save(
        state | {"feature_extractor.weight": torch.eye(128, 256), "feature_extractor.bias": torch.zeros(128)},
        tmp_path / "w.pth",
    )
    bundle, same, other = (tmp_path / name for name in ("bundle", "same", "other"))
    more = ("--pool", "max", "--features", "demo_visual", "--rate", "1", "--window", "5")
    assert touchline_here("import", "pooling", tmp_path / "w.pth", "--out", bundle, *more).code == 0
    for out, told in ((same, ()), (other, ("--rule", "local-max"))):
        ended = touchline_here("tune", bundle, "--data", features, "--out", out, *told)
        assert ended.code == 0, ended.err
    assert (open_bundle(same).manifest.rule, open_bundle(other).manifest.rule) == ("greedy", "local-max")
    assert open_bundle(same).manifest.head == open_bundle(bundle).manifest.head


def test_feature_sets_name_their_streams_once() -> None:
    for chosen in FEATURES.values():
        names = [stream.name for stream in chosen.streams]
        assert len(set(names)) == len(names)
