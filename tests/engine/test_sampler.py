"""Sampler: each rule against a naive numpy form, frequencies by chi-square, and rows that do not feel each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lmcourse.engine.request import Request
from lmcourse.engine.sampler import Sampled, keep_min_p, keep_top_k, keep_top_p, sample
from lmcourse.engine.sampling import SamplingRule
from lmcourse.errors import LmcourseError


@pytest.fixture
def generator(rng) -> torch.Generator:
    return torch.Generator().manual_seed(rng.randrange(2**32))


def requests_for(count: int, prompt: tuple[int, ...] = (0,), outputs: tuple[int, ...] = ()) -> list[Request]:
    made = [Request(10 + n, prompt, max_tokens=1000) for n in range(count)]
    for request in made:
        for token_id in outputs:
            request.append(token_id)
    return made


def sample_rows(logits: torch.Tensor, rules: list[SamplingRule], **keywords) -> list[Sampled]:
    return sample(logits.clone(), requests_for(len(rules), **keywords), rules)


def naive_filter(logits: np.ndarray, rule: SamplingRule) -> np.ndarray:
    """Probabilities after temperature, top-k, top-p, min-p, one token at a time; ties stay."""
    x = logits.astype(np.float64) / rule.temperature
    if rule.top_k:
        limit = sorted(x, reverse=True)[min(rule.top_k, len(x)) - 1]
        x = np.where(x >= limit, x, -np.inf)
    p = np.exp(x - x.max())
    p /= p.sum()
    if rule.top_p < 1:
        mass, limit = 0.0, 1.0
        for value in sorted(p, reverse=True):
            if mass >= rule.top_p:
                break
            mass, limit = mass + value, value
        p = np.where(p >= limit, p, 0)
        p /= p.sum()
    p = np.where(p >= rule.min_p * p.max(), p, 0)
    return p / p.sum()


def test_sample_greedy_is_argmax(generator) -> None:
    logits = torch.randn(33, 781, generator=generator)
    tokens = sample_rows(logits, [SamplingRule()] * 33)
    assert [token.token_id for token in tokens] == logits.argmax(-1).tolist()
    assert all(token.logprobs is None for token in tokens)


@pytest.mark.parametrize("vocab", [1, 2, 63, 1823])
def test_keep_top_k_against_numpy(generator, vocab: int) -> None:
    counts = [0, 1, 2, 5, vocab, vocab + 7]
    logits = torch.randn(len(counts), vocab, generator=generator).round(decimals=1)  # many ties
    kept = keep_top_k(logits, counts)
    for row, count in enumerate(counts):
        limit = np.sort(logits[row].numpy())[::-1][min(count or vocab, vocab) - 1]
        expected = np.where(logits[row].numpy() >= limit, logits[row].numpy(), -np.inf)
        np.testing.assert_array_equal(kept[row].numpy(), expected)


@pytest.mark.parametrize("vocab", [1, 2, 63, 1823])
def test_keep_top_p_against_numpy(generator, vocab: int) -> None:
    masses = [1e-9, 0.1, 0.5, 0.9, 0.999, 1.0]
    probs = (3 * torch.randn(len(masses), vocab, generator=generator)).softmax(-1)
    kept = keep_top_p(probs, torch.tensor(masses, dtype=torch.float64)[:, None], most=vocab)
    for row, mass in enumerate(masses):
        values = np.sort(probs[row].numpy().astype(np.float64))[::-1]
        enough = int(np.searchsorted(np.cumsum(values) / values.sum(), mass - 1e-9)) + 1 if mass < 1 else vocab
        expected = np.where(probs[row].numpy() >= values[min(enough, vocab) - 1].astype(np.float32), probs[row], 0)
        np.testing.assert_array_equal(kept[row].numpy(), expected)


def test_keep_top_p_keeps_ties() -> None:
    probs = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.4, 0.2, 0.2, 0.2]])
    kept = keep_top_p(probs, torch.tensor([[0.3], [0.5]], dtype=torch.float64), most=4)
    assert (kept > 0).tolist() == [[True] * 4, [True] * 4]


def test_keep_min_p_against_numpy(generator) -> None:
    probs = torch.randn(3, 97, generator=generator).softmax(-1)
    kept = keep_min_p(probs, torch.tensor([[0.0], [0.3], [1.0]]))
    assert (kept[0] == probs[0]).all()
    assert ((kept[1] > 0) == (probs[1] >= 0.3 * probs[1].max())).all()
    assert (kept[2] > 0).sum() == 1


RULES = [
    SamplingRule(temperature=1.0),
    SamplingRule(temperature=0.5),
    SamplingRule(temperature=2.0, top_k=5),
    SamplingRule(temperature=1.0, top_p=0.7),
    SamplingRule(temperature=1.3, min_p=0.2),
    SamplingRule(temperature=1.5, top_k=8, top_p=0.9, min_p=0.05),
    SamplingRule(temperature=1.0, top_k=1),
]


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_sample_frequencies_follow_the_filtered_distribution(rule: SamplingRule) -> None:
    vocab, draws = 17, 20000
    logits = 2 * torch.randn(vocab, generator=torch.Generator().manual_seed(5))
    rules = [SamplingRule(**{**rule.__dict__, "seed": seed}) for seed in range(draws)]
    tokens = sample_rows(logits.expand(draws, -1).contiguous(), rules)
    counts = np.bincount([token.token_id for token in tokens], minlength=vocab)
    expected = draws * naive_filter(logits.numpy(), rule)
    assert (counts[expected == 0] == 0).all(), "a filtered token was drawn"
    likely = expected > 5
    chi_square = ((counts - expected)[likely] ** 2 / expected[likely]).sum()
    freedom = max(int(likely.sum()) - 1, 1)
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom) + 10


def test_sample_one_seed_along_positions_follows_the_distribution() -> None:
    vocab, draws = 9, 4000
    logits = torch.randn(vocab, generator=torch.Generator().manual_seed(6))
    request = Request(0, (0,), max_tokens=10000)
    counts = np.zeros(vocab)
    for _ in range(draws):
        token = sample(logits[None].clone(), [request], [SamplingRule(temperature=1.0, seed=77)])[0].token_id
        counts[token] += 1
        request.append(token)
    expected = draws * naive_filter(logits.numpy(), SamplingRule(temperature=1.0))
    assert ((counts - expected) ** 2 / expected).sum() < 8 + 5 * 4 + 10


def test_sample_row_does_not_depend_on_its_neighbours(generator, rng) -> None:
    vocab = 211
    rules = [SamplingRule(**{**rng.choice(RULES).__dict__, "seed": rng.randrange(2**64)}) for _ in range(40)]
    rules[3] = SamplingRule()
    rules[4] = SamplingRule(temperature=1.0, repetition_penalty=1.7, banned_ids=(4, 9), seed=3, num_logprobs=2)
    logits = 3 * torch.randn(40, vocab, generator=generator)
    together = sample_rows(logits, rules, prompt=(4, 5, 6))
    order = rng.sample(range(40), 40)
    requests = requests_for(40, prompt=(4, 5, 6))
    shuffled = sample(logits[order], [requests[row] for row in order], [rules[row] for row in order])
    for place, row in enumerate(order):
        alone = sample(logits[[row]], [requests[row]], [rules[row]])[0]
        assert together[row].token_id == alone.token_id == shuffled[place].token_id


@pytest.mark.parametrize("penalty", [0.5, 1.3, 1e-40, 1e38])
def test_sample_repetition_penalty_covers_prompt_and_output(penalty: float) -> None:
    logits = torch.tensor([[1.0, -1.0, 0.5, -0.5, 0.0]])
    rule = SamplingRule(repetition_penalty=penalty, num_logprobs=5)
    expected = logits[0].double().clone()
    for seen in (0, 1, 3):
        expected[seen] = expected[seen] / penalty if expected[seen] > 0 else expected[seen] * penalty
    token = sample_rows(logits, [rule], prompt=(0, 1, 1), outputs=(3,))[0]
    assert token.token_id == int(expected.argmax())


@pytest.mark.parametrize("outputs", [(), (3,), (3, 1, 3, 3)])
def test_sample_counts_of_the_output_and_biases_shift_logits(generator, outputs: tuple[int, ...]) -> None:
    """OpenAI's rule: logit + bias - frequency · count - presence · [count > 0]; the prompt does not count."""
    logits = torch.randn(4, 7, generator=generator)
    rules = [
        SamplingRule(presence_penalty=1.5, frequency_penalty=0.75),
        SamplingRule(frequency_penalty=-2.0, biased_ids=(3, 6), biases=(-100.0, 2.5)),
        SamplingRule(biased_ids=(5,), biases=(100.0,)),
        SamplingRule(),
    ]
    expected = logits.double().clone()
    for row, rule in enumerate(rules):
        for token_id in set(outputs):
            expected[row, token_id] -= rule.frequency_penalty * outputs.count(token_id) + rule.presence_penalty
        for token_id, bias in zip(rule.biased_ids, rule.biases, strict=True):
            expected[row, token_id] += bias
    tokens = sample_rows(logits, rules, prompt=(0, 0, 3), outputs=outputs)
    assert [token.token_id for token in tokens] == expected.argmax(-1).tolist()
    assert [rule.is_plain for rule in rules] == [False, False, False, True]
    assert [rule.needs_host for rule in rules] == [True, True, False, False]


def test_sample_penalised_row_leaves_others_alone(generator) -> None:
    logits = torch.randn(3, 50, generator=generator)
    rules = [SamplingRule(), SamplingRule(repetition_penalty=1e6), SamplingRule()]
    tokens = sample_rows(logits, rules, prompt=tuple(range(50)))
    assert [tokens[0].token_id, tokens[2].token_id] == logits[[0, 2]].argmax(-1).tolist()


def test_sample_bans_and_early_ids(generator) -> None:
    logits = torch.randn(2, 20, generator=generator)
    order = logits.argsort(-1, descending=True)
    first, second = order[0, :2].tolist()
    banned = SamplingRule(banned_ids=(first,))
    assert sample_rows(logits, [banned, SamplingRule()])[0].token_id == second
    early = SamplingRule(early_ids=(first,), min_new_tokens=2)
    assert sample_rows(logits[:1], [early], outputs=(3,))[0].token_id == second
    assert sample_rows(logits[:1], [early], outputs=(3, 3))[0].token_id == first


def test_sample_logprobs_are_of_raw_logits(generator) -> None:
    logits = torch.randn(3, 40, generator=generator)
    rules = [
        SamplingRule(num_logprobs=4, repetition_penalty=2.0, banned_ids=tuple(range(30))),
        SamplingRule(),
        SamplingRule(temperature=0.1, top_k=1, num_logprobs=0),
    ]
    tokens = sample_rows(logits, rules, prompt=(31, 32))
    expected = logits.double().log_softmax(-1)
    best = expected[0].argsort(descending=True)[:4].tolist()
    assert list(tokens[0].logprobs)[:4] == best
    assert set(tokens[0].logprobs) == {*best, tokens[0].token_id}
    assert tokens[1].logprobs is None
    assert list(tokens[2].logprobs) == [tokens[2].token_id]
    for row in (0, 2):
        for token_id, value in tokens[row].logprobs.items():
            assert value == pytest.approx(expected[row, token_id].item(), abs=1e-5)


def test_sample_more_logprobs_than_vocabulary(generator) -> None:
    token = sample_rows(torch.randn(1, 3, generator=generator), [SamplingRule(num_logprobs=10)])[0]
    assert len(token.logprobs) == 3


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_sample_not_finite_names_the_request(generator, bad: float) -> None:
    logits = torch.randn(4, 30, generator=generator)
    logits[2, 17] = bad
    with pytest.raises(LmcourseError, match="request 12") as caught:
        sample_rows(logits, [SamplingRule(temperature=1.0)] * 4)
    assert "not finite" in caught.value.what


@pytest.mark.parametrize("temperature", [5e-324, 1e-40, 1e-3, 1e3, 1e300])
def test_sample_extreme_temperatures_stay_finite(generator, temperature: float) -> None:
    logits = 50 * torch.randn(8, 100, generator=generator)
    rules = [SamplingRule(temperature=temperature, top_k=3 * (n % 2), seed=n) for n in range(8)]
    tokens = [token.token_id for token in sample_rows(logits, rules)]
    if temperature < 1e-2:
        assert tokens == logits.argmax(-1).tolist()


def test_sample_no_rows() -> None:
    assert sample(torch.empty(0, 7), [], []) == []
