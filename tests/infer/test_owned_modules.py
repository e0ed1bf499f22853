"""Terms with modules of their own, FactorVAE among them, and the optimisers that `fit` takes."""

from functools import partial

import pytest
import torch
from terms import D, Keeps, evaluate, make
from torch import nn
from torch.testing import assert_close
from training import rows as data_rows

from pyro_semivae.errors import InputError
from pyro_semivae.infer import (
    Term,
    TotalCorrelation,
)
from pyro_semivae.models import DIVA, M2, VAE
from pyro_semivae.train import fit


def critic_by_hand(critic, z):
    for layer in critic:
        z = layer(z)
    return z[:, 0]


def test_total_correlation_by_hand():
    """Minus the critic's log-ratio; its loss is the cross-entropy of half of the samples and the permuted others."""
    vae, x = make(VAE)
    term, keeps = TotalCorrelation(hidden=(9, 8)), Keeps()
    found = evaluate(vae.elbo() + 6.0 * term + keeps, vae, x, None)
    z = keeps.run.value("z")
    assert z.shape == (7, D) and [layer.out_features for layer in term.critic[::2]] == [9, 8, 1]
    assert_close(found.contributions()["-TC(z)"], -6.0 * critic_by_hand(term.critic, z))
    torch.manual_seed(5)
    loss = term.loss(keeps.run)
    torch.manual_seed(5)
    permuted = torch.stack([z[1::2, d][torch.randperm(3)] for d in range(D)], 1)
    real, fake = (torch.sigmoid(critic_by_hand(term.critic, part)) for part in (z[::2], permuted))
    assert_close(loss, -(real.log().mean() + (1 - fake).log().mean()) / 2)
    assert sorted(permuted[:, 1].tolist()) == sorted(z[1::2, 1].tolist())


def test_information_between_sites_by_hand():
    """The entries of a site stay together: what is permuted is which z_s goes with which z_c."""
    vae, x = make(DIVA)
    term, keeps = TotalCorrelation("z_s", "z_c", hidden=(9,), by_site=True), Keeps()
    found = evaluate(vae.elbo() + 6.0 * term + keeps, vae, x, None)
    z_s, z_c = (keeps.run.value(name) for name in ("z_s", "z_c"))
    z = torch.cat([z_s, z_c], 1)
    assert_close(found.contributions()["-TC(z_s;z_c)"], -6.0 * critic_by_hand(term.critic, z))
    assert [*found.losses] == ["TC(z_s;z_c)"]
    torch.manual_seed(5)
    loss = term.loss(keeps.run)
    torch.manual_seed(5)
    permuted = torch.cat([part[1::2][torch.randperm(3)] for part in (z_s, z_c)], 1)
    real, fake = (torch.sigmoid(critic_by_hand(term.critic, part)) for part in (z[::2], permuted))
    assert_close(loss, -(real.log().mean() + (1 - fake).log().mean()) / 2)
    with pytest.raises(InputError, match="by_site: got the latent 'z_c' alone; expected two or more"):
        evaluate(vae.elbo() + TotalCorrelation("z_c", by_site=True), vae, x, None)


def test_each_optimiser_sees_its_own_gradient_only():
    vae, x = make(VAE)
    term = TotalCorrelation(hidden=(9,))
    elbo = vae.elbo() + 6.0 * term
    found = evaluate(elbo, vae, x, None)
    (loss,) = found.losses.values()
    own, others = [*term.critic.parameters()], [*vae.parameters()]
    of_critic = torch.autograd.grad(loss, [*own, *others], allow_unused=True, retain_graph=True)
    assert all(g is not None and g.any() for g in of_critic[: len(own)][:-1])
    assert all(g is None for g in of_critic[len(own) :]), "the critic's loss moves nothing of the model"
    of_model = torch.autograd.grad(found.total(), [*own, *others], allow_unused=True, retain_graph=True)
    assert all(g is None for g in of_model[: len(own)]), "the objective does not move the critic"
    value = next(v.value for v in found.values if v.name == "-TC(z)")
    reached = torch.autograd.grad(value.sum(), [*vae.q_z.parameters()], retain_graph=True)
    assert all(g.any() for g in reached), "but it moves the encoder through it"
    both = torch.autograd.grad(loss - found.total(), [*own, *others])
    assert_close(both, (*of_critic[: len(own)], *(-g for g in of_model[len(own) :])))
    assert not set(own) & set(elbo(vae.model, vae.guide).parameters())


def train_factor(vae, term, path=None, epochs=4, **more):
    x, _, _ = data_rows()
    how = {"epochs": 4, "batch_size": 8, "progress": False, "lr": 1e-3, "ema_decay": 0.9, **more}
    return fit(vae, x, None, elbo=vae.elbo() + 6.0 * term, checkpoint=path, **{**how, "epochs": epochs})


def states(vae, term):
    return {**vae.state_dict(), **{f"critic.{k}": v for k, v in term.critic.state_dict().items()}}


def test_fit_trains_both_and_resumes_bit_identically(tmp_path):
    path = tmp_path / "checkpoint.pt"
    made = [(make(VAE)[0], TotalCorrelation(hidden=(9,), lr=1e-2)) for _ in range(3)]
    whole = train_factor(*made[0])
    assert whole[-1]["monitor/loss of TC(all)"] > 0 and whole[-1]["weight/-TC(z)"] == 6
    with torch.random.fork_rng():
        torch.manual_seed(99)
        train_factor(*made[1], path, epochs=2, schedule="constant")
        path.unlink()
    train_factor(*made[2], path, epochs=2, schedule="constant")
    vae, term = make(VAE)[0], TotalCorrelation(hidden=(9,), lr=1e-2)
    resumed = train_factor(vae, term, path, epochs=4, schedule="constant", resume=True)
    vae_whole, term_whole = make(VAE)[0], TotalCorrelation(hidden=(9,), lr=1e-2)
    at_once = train_factor(vae_whole, term_whole, schedule="constant")
    assert [{k: v for k, v in r.items() if k != "seconds"} for r in resumed] == [
        {k: v for k, v in r.items() if k != "seconds"} for r in at_once
    ]
    ours, theirs = states(vae, term), states(vae_whole, term_whole)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    saved = torch.load(path, weights_only=True)["critics"]["TC(all)"]
    assert all(torch.equal(saved["weights"][name], value) for name, value in term.critic.state_dict().items())
    other = TotalCorrelation(hidden=(8,), lr=1e-2)
    with pytest.raises(InputError, match="other objective: 9, now 8"):
        train_factor(make(VAE)[0], other, path, epochs=5, schedule="constant", resume=True)


def test_the_critic_learns_and_its_learning_rate_is_its_own():
    x, _, _ = data_rows()
    moved = {}
    for lr in (1e-30, 1e-2):
        vae, term = make(VAE)[0], TotalCorrelation(hidden=(9,), lr=lr)
        fit(vae, x, None, elbo=vae.elbo() + term, epochs=1, batch_size=8, progress=False, lr=1e-30, ema_decay=0.0)
        before = make(VAE)[0]
        assert all(torch.allclose(a, b) for a, b in zip(vae.parameters(), before.parameters(), strict=True))
        moved[lr] = [p.clone() for p in term.critic.parameters()]
    assert all(not torch.equal(a, b) for a, b in zip(moved[1e-30], moved[1e-2], strict=True))


def test_what_a_critic_cannot_do_is_said():
    vae, x = make(VAE)
    with pytest.raises(InputError, match=r"TotalCorrelation: got \['w'\]; expected latents, z"):
        evaluate(vae.elbo() + TotalCorrelation("w"), vae, x, None)
    with pytest.raises(InputError, match="got a batch of 1 rows and 3 dimensions of z; expected two"):
        evaluate(vae.elbo() + TotalCorrelation(), vae, x[:1], None)
    with pytest.raises(InputError, match=r"two different modules named 'TC\(all\)'"):
        (vae.elbo() + TotalCorrelation() + TotalCorrelation()).modules()
    with pytest.raises(InputError, match="precision: got '16-mixed' with a term that has modules of its own"):
        fit(vae, x, elbo=vae.elbo() + TotalCorrelation(), precision="16-mixed", progress=False)


def test_two_critics_on_two_latents(tmp_path):
    x, y, _ = data_rows()
    vae = make(DIVA)[0]
    elbo = vae.elbo() + TotalCorrelation("z_c", hidden=(6,)) + 2.0 * TotalCorrelation("z_s", hidden=(5,))
    path = tmp_path / "checkpoint.pt"
    history = fit(vae, x, y, elbo=elbo, epochs=1, batch_size=8, progress=False, checkpoint=path)
    assert {"term/-TC(z_c)", "term/-TC(z_s)", "monitor/loss of TC(z_c)", "monitor/loss of TC(z_s)"} <= {*history[0]}
    assert [*torch.load(path, weights_only=True)["critics"]] == ["TC(z_c)", "TC(z_s)"]


def test_the_lazy_critic_has_the_models_precision():
    vae, x = make(VAE)
    term = TotalCorrelation(hidden=(4,))
    evaluate((vae.elbo() + term), vae.float(), x.float(), None)
    assert {p.dtype for p in term.critic.parameters()} == {torch.float32}
    assert not any(isinstance(p, nn.UninitializedParameter) for p in term.critic.parameters())


class Owner(Term):
    """A module whose author detaches nothing."""

    whole_batch = False

    def __init__(self):
        self.net = nn.Linear(D, 1)

    def module(self):
        return "owner", self.net

    def values(self, run):
        return {"owner": self.net(run.value("z"))[:, 0]}

    def loss(self, run):
        return self.net(run.value("z")).square().mean()

    def optimiser(self, parameters):
        return torch.optim.SGD(parameters, 1.0)


def test_a_module_that_a_term_owns_has_its_own_gradient_only_whatever_its_author_does():
    x, _, _ = data_rows()
    vae, term = make(VAE)[0], Owner()
    before, start = term.net.weight.detach().clone(), {k: v.clone() for k, v in vae.state_dict().items()}
    seen = {}
    vae.q_z.register_forward_hook(lambda module, args, out: seen.update(x=args[0], z=None) if module.training else None)
    how = {"epochs": 1, "batch_size": 60, "progress": False, "ema_decay": 0.0, "corrupt": None, "lr": 1e-3}
    fit(vae, x, None, elbo=vae.elbo() + 1000.0 * term, **how)
    assert (term.net.weight - before).abs().max() < 10, "of the order of its loss, and not of a thousand times the term"
    plain, fixed = make(VAE)[0], Owner()
    plain.load_state_dict(start)
    fixed.net.load_state_dict({"weight": before, "bias": fixed.net.bias.detach()})

    class Fixed(Owner):
        def module(self):
            return None

    only = Fixed()
    only.net.load_state_dict({"weight": before, "bias": torch.zeros(1)})
    with torch.no_grad():
        term.net.bias.zero_()
    fit(plain, x, None, elbo=plain.elbo() + 1000.0 * only, **how)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), vae.parameters(), strict=True)), (
        "the model moves by the term alone (one step, in which the bias plays no part)"
    )
    assert isinstance(term.net, nn.Linear) and all(p.requires_grad for p in term.net.parameters())


def test_a_term_with_a_module_sees_all_rows_together():
    """Where a bound runs labelled rows apart, as M2's does, its module is trained on both."""
    x, y, _ = data_rows()

    class Counter(Term):
        def __init__(self):
            self.net = nn.Linear(1, 1, bias=False)

        def module(self):
            return "counter", self.net

        def values(self, run):
            return {"nothing": torch.zeros(run.model.nodes["x"]["value"].shape[0])}

        def loss(self, run):
            return self.net.weight.sum() * run.model.nodes["x"]["value"].shape[0]

        def optimiser(self, parameters):
            return torch.optim.SGD(parameters, 1.0)

    vae, term = make(M2, z=2)[0], Counter()
    start = term.net.weight.item()
    how = {"epochs": 1, "batch_size": 40, "labelled_batch_size": 20, "progress": False, "corrupt": None}
    fit(vae, x, y, elbo=vae.elbo() + term, **how)
    assert term.net.weight.item() == pytest.approx(start - 60)


@pytest.mark.parametrize("make_it", [torch.optim.Adafactor, partial(torch.optim.SGD, momentum=0.9)])
def test_other_optimisers_are_resumed(make_it, tmp_path):
    x, y, _ = data_rows()
    path, found = tmp_path / "c.pt", []
    how = {"batch_size": 8, "progress": False, "optimiser": make_it, "lr": 1e-3, "schedule": "constant"}
    for epochs in ([2], [1, 2]):
        vae = make(VAE)[0]
        for until in epochs:
            more = {"checkpoint": path, "resume": True} if len(epochs) > 1 else {}
            fit(vae, x, y, epochs=until, **more, **how)
        found.append(vae)
    assert all(torch.equal(a, b) for a, b in zip(found[0].parameters(), found[1].parameters(), strict=True))


def test_an_optimiser_of_something_else_is_refused():
    x, y, _ = data_rows()
    strange = [nn.Parameter(torch.zeros(2))]
    for make_it, message in (
        (lambda parameters, lr: torch.optim.Adam(strange), "returned one of other parameters"),
        (torch.optim.LBFGS, "returned LBFGS; expected .* needs no closure"),
        (lambda parameters: None, "unexpected keyword argument 'lr'; expected a function of parameters"),
    ):
        with pytest.raises(InputError, match=f"optimiser: .*{message}"):
            fit(make(VAE)[0], x, y, optimiser=make_it, progress=False)


def test_average_copies_parameters_and_nothing_else(tmp_path):
    x, y, _ = data_rows()
    vae = make(VAE)[0]
    with open(tmp_path / "log", "w") as vae.log:
        fit(vae, x, y, epochs=1, progress=False, ema_decay=0.9)
