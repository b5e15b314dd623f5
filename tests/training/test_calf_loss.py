import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from originals import Originals
from torch import Tensor

from engines.labels import SOCCERNET_LABELS
from training.encodings import IGNORED, k_rows
from training.models.calf import (
    SEGMENTATION_WEIGHT,
    Calf,
    CalfConfig,
    Sign,
    action_scores,
    calf_loss,
    context_aware_loss,
    match_anchors,
    spotting_loss,
)

K17 = torch.from_numpy(k_rows(SOCCERNET_LABELS, 2)).float()
SIGNS = {Sign.ACTION_HIGH: "", Sign.ACTION_LOW: "v2021_01_"}


def gradient_of(loss: Tensor, output: Tensor) -> Tensor:
    return torch.autograd.grad(loss, output)[0]


@pytest.mark.parametrize("sign", Sign)
def test_the_context_aware_loss_and_its_gradient_are_the_originals(originals: Originals, sign: Sign) -> None:
    stored, release = originals.arrays("calf_losses"), SIGNS[sign]
    output = torch.from_numpy(stored["seg_pred"]).requires_grad_()
    loss = context_aware_loss(output, torch.from_numpy(stored["seg_labels"]), K17, sign)
    gradient = gradient_of(loss, output)
    np.testing.assert_allclose(gradient.numpy(), stored[f"seg_{release}grad"], rtol=1e-3, atol=1e-5)
    if originals.whole:
        np.testing.assert_allclose(loss.item(), stored[f"seg_{release}loss"], rtol=1e-5)
    if originals.whole and sign is Sign.ACTION_HIGH:
        np.testing.assert_allclose(gradient.norm().item(), stored["seg_grad_norm"], rtol=1e-5)
        turned = context_aware_loss(1 - output.detach(), torch.from_numpy(stored["seg_labels"]), K17, sign)
        np.testing.assert_allclose(turned.item(), stored["seg_loss_flipped_pred"], rtol=1e-5)


def each_loss(shifts_N: np.ndarray, outputs_N: np.ndarray, label: int, sign: Sign) -> tuple[np.ndarray, np.ndarray]:
    """Return the loss of each pair of shift and output of a label, and its gradient."""
    shifts, outputs = (torch.from_numpy(x.astype(np.float32)) for x in (shifts_N, outputs_N))
    outputs.requires_grad_()
    bounds = K17[:, label : label + 1]

    def one(output: Tensor, shift: Tensor) -> Tensor:
        return context_aware_loss(output.view(1, 1, 1), shift.view(1, 1, 1), bounds, sign)

    losses = torch.vmap(one)(outputs, shifts)
    return losses.detach().numpy(), gradient_of(losses.sum(), outputs).numpy()


@pytest.mark.parametrize("sign", Sign)
@pytest.mark.parametrize("label", [2, 5, 16])
def test_the_context_aware_loss_is_the_originals_at_every_shift(originals: Originals, sign: Sign, label: int) -> None:
    stored = originals.arrays("calf_losses")
    wanted = stored[f"seg_{SIGNS[sign]}scan_class{label}"]
    shifts, outputs = (x.ravel() for x in np.meshgrid(stored["seg_scan_x"], stored["seg_scan_p"], indexing="ij"))
    found, _ = each_loss(shifts, outputs, label, sign)
    np.testing.assert_allclose(found.reshape(wanted.shape), wanted, rtol=1e-5, atol=1e-6)


def test_outputs_of_exactly_0_or_1_cost_what_they_do_in_the_original_and_never_nan(originals: Originals) -> None:
    stored = originals.arrays("calf_losses")["seg_extremes_class2"]
    loss, gradient = each_loss(stored[:, 0], stored[:, 1], 2, Sign.ACTION_HIGH)
    is_number = np.isfinite(stored[:, 3])
    np.testing.assert_allclose(loss[is_number], stored[is_number, 2], rtol=1e-5)
    np.testing.assert_allclose(gradient[is_number], stored[is_number, 3], rtol=1e-3)
    assert np.isfinite(loss).all()
    assert np.isfinite(gradient).all()
    assert np.isfinite(each_loss(stored[:, 0], stored[:, 1], 2, Sign.ACTION_LOW)).all()


@pytest.mark.parametrize("sign", Sign)
def test_the_action_scores_are_high_at_an_action_and_low_far_from_it(sign: Sign) -> None:
    outputs = np.linspace(0.02, 0.98, 49)
    at_action, far = (each_loss(np.full(49, shift), outputs, 2, sign)[0] for shift in (0, -500))
    best, background = (torch.tensor(outputs[loss.argmin()]) for loss in (at_action, far))
    assert action_scores(best, sign) > 0.85
    assert action_scores(background, sign) < 0.15


@pytest.mark.parametrize("sign", Sign)
def test_ignored_rows_cost_nothing(sign: Sign) -> None:
    output = torch.linspace(0, 1, 4 * 17).view(1, 4, 17).requires_grad_()
    loss = context_aware_loss(output, torch.full((1, 4, 17), IGNORED), K17, sign)
    assert loss == 0
    assert not gradient_of(loss, output).any()


def test_the_spotting_loss_its_gradient_and_its_matching_are_the_originals(originals: Originals) -> None:
    stored = originals.arrays("calf_losses")
    targets, anchors = (torch.from_numpy(stored[f"spot_{what}"]) for what in ("true", "pred"))
    answer = match_anchors(targets, anchors)
    assert np.array_equal(answer.numpy(), stored["spot_permutation"])
    loss = spotting_loss(anchors.requires_grad_(), targets)
    gradient = gradient_of(loss, anchors)
    np.testing.assert_allclose(loss.item(), stored["spot_loss"], rtol=1e-5)
    np.testing.assert_allclose(gradient.numpy(), stored["spot_grad"], rtol=1e-3, atol=1e-5)
    if originals.whole:
        np.testing.assert_allclose(gradient.norm().item(), stored["spot_grad_norm"], rtol=1e-5)
        permuted = anchors.detach().gather(1, answer[..., None].expand_as(anchors))
        assert np.array_equal(permuted.numpy(), stored["spot_pred_permuted"])


@pytest.mark.parametrize("cases", ["match", "rand"])
def test_ties_and_odd_cases_are_matched_as_in_the_original(originals: Originals, cases: str) -> None:
    stored = originals.arrays("calf_losses")
    targets, anchors = (torch.from_numpy(stored[f"{cases}_{what}"]) for what in ("true", "pred"))
    assert np.array_equal(match_anchors(targets, anchors).numpy(), stored[f"{cases}_permutation"])
    found = [spotting_loss(anchors[[i]], targets[[i]]).item() for i in range(len(targets))]
    np.testing.assert_allclose(found, stored[f"{cases}_loss"], rtol=1e-5)


TENTHS = st.lists(st.integers(1, 9), min_size=6, max_size=6)


@given(TENTHS, TENTHS, st.integers(0, 6))
def test_matching_is_rounds_of_mutual_choice(times: list[int], guesses: list[int], actions: int) -> None:
    targets, anchors = torch.zeros(1, 6, 3), torch.zeros(1, 6, 3)
    targets[0, :actions, 0] = 1
    targets[0, :actions, 1] = torch.tensor(times[:actions]) / 10
    anchors[0, :, 1] = torch.tensor(guesses) / 10
    wanted, free = [0] * 6, set(range(6))
    for group in (range(actions), range(actions, 6)):
        waiting = [*group]
        while waiting:
            gap = {(t, a): abs(targets[0, t, 1] - anchors[0, a, 1]).item() for t in waiting for a in free}
            name = {t: min(sorted(free), key=lambda a, t=t: gap[t, a]) for t in waiting}  # type: ignore[misc]
            for anchor in set(name.values()):
                taker = min((t for t in waiting if name[t] == anchor), key=lambda t: gap[t, anchor])
                wanted[taker] = anchor
                waiting.remove(taker)
                free.remove(anchor)
    assert match_anchors(targets, anchors)[0].tolist() == wanted


@pytest.mark.parametrize("sign", Sign)
def test_the_whole_loss_is_the_weighted_sum_and_a_step_against_it_lowers_it(sign: Sign) -> None:
    torch.manual_seed(0)
    labels = ("Goal", "Corner", "Foul")
    net = Calf(CalfConfig({"visual": 8}, rows=48, receptive_field=16, anchors=4, labels=labels))
    rows, bounds = {"visual": torch.randn(3, 48, 8)}, torch.from_numpy(k_rows(labels, 0.2)).float()
    shifts = torch.arange(48.0).sub(20)[None, :, None].expand(3, 48, 3)
    targets = torch.zeros(3, 4, 5)
    targets[:, 0] = torch.tensor([1, 20 / 48, 0, 1, 0])
    segmentation, anchors = net(rows)
    loss = calf_loss((segmentation, anchors), (shifts, targets), bounds, sign)
    parts = context_aware_loss(segmentation, shifts, bounds, sign), spotting_loss(anchors, targets)
    assert loss.item() == pytest.approx((SEGMENTATION_WEIGHT * parts[0] + parts[1]).item(), rel=1e-6)
    parameters = list(net.parameters())
    gradients = torch.autograd.grad(loss, parameters)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.sub_(1e-3 * gradient)
    assert calf_loss(net(rows), (shifts, targets), bounds, sign) < loss
