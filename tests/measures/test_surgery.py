"""Surgery in a run: what is trained beside the model survives a stop, is measured as it is, and costs no model."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from iclab.analysis import Stitched, affine_bridge, answer, excess, paste, pasting, risk
from iclab.experiments.experiment import Evaluation, Experiment, Partner
from iclab.experiments.findings import Findings
from iclab.learning.training import Training, TrainingConfig
from iclab.measures import measure
from iclab.measures.auxiliary import AuxiliaryTrainer
from iclab.measures.pasting import chosen_cut, pasted_task
from iclab.measures.stitching import FITTED, partners, stitching_rows
from iclab.models import Transformer, TransformerConfig
from iclab.runs.perform import perform
from iclab.runs.store import Run
from iclab.tasks import LinearRegression, ReLUNetwork, RepresentationRegression
from iclab.tasks.features import Representation
from iclab.theory.posterior import bayes
from tests.conftest import generator

BRIEF = TrainingConfig(steps=4, batch=4, warmup=0.2)
SHAPE = TransformerConfig(n_layer=3, n_head=2, d_model=8, d_mlp=8, layout="interleaved", attention="softmax")
PASTED = Experiment(
    task=RepresentationRegression(2, 5, noise=0.5, representation=Representation(width=3)),
    model=SHAPE,
    train=BRIEF,
    eval=Evaluation(prompts=40, bootstrap=2, analyses=("pasting",), surgery=replace(BRIEF, steps=3)),
    device="cpu",
)
LINEAR = LinearRegression(2, 5, noise=0.5)
OTHERS = (("other_seed", Partner(seed=7)), ("other_noise", Partner(seed=7, task=replace(LINEAR, noise=1.0))))
STITCHED = replace(PASTED, task=LINEAR, eval=replace(PASTED.eval, analyses=("stitching",), partners=OTHERS))
BOTH = pytest.mark.parametrize("experiment", [PASTED, STITCHED], ids=["pasting", "stitching"])


def silent(_):
    pass


def rows_of(rows, start):
    return [row for row in rows if row["quantity"].startswith(start)]


def value(rows, **wanted):
    wanted = {"layer": None, "position": None} | wanted
    (row,) = (row for row in rows if all(row[key] == v for key, v in wanted.items()))
    return row["value"]


@BOTH
def test_a_run_that_is_stopped_during_surgery_goes_on_from_there_and_ends_with_the_same_rows(
    experiment, tmp_path, monkeypatch
):
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole = perform(experiment, tmp_path / "whole", silent, silent)

    class Cut(Exception):
        pass

    save, names, heard = Training.save, [], []

    def cut_at_nine(training, path, mark=None):
        if len(names) == 9:
            raise Cut
        save(training, path, mark)
        names.append(path.name)

    with monkeypatch.context() as patched:
        patched.setattr(Training, "save", cut_at_nine)
        with pytest.raises(Cut):
            perform(experiment, tmp_path / "cut", silent, silent)
    assert (tmp_path / "cut" / "weights.safetensors").exists()
    before = {path.name: path.read_bytes() for path in (tmp_path / "cut").glob("checkpoint*")}
    resumed = perform(experiment, tmp_path / "cut", heard.append, silent)
    assert resumed == whole and not heard  # the model was not trained again
    kept = {name: (tmp_path / "cut" / name).read_bytes() for name in before}
    assert len(before) > 2 and sum(kept[name] == content for name, content in before.items()) >= len(before) - 1


def test_pasting_rows_agree_with_the_read_ins_that_were_kept(tmp_path):
    rows = rows_of(perform(PASTED, tmp_path, silent, silent), "pasting")
    model, trainer = (
        Transformer.load(tmp_path / "weights.safetensors"),
        AuxiliaryTrainer(PASTED, tmp_path, "cpu", silent),
    )
    task = pasted_task(PASTED)
    assert (task.d, task.n, task.noise) == (3, 5, 0.5)
    (read_in,) = (
        m for (name, cut), m in pasting(model, [], 3, 5, trainer.rng("init")).items() if name == "linear_alone"
    )
    assert isinstance(read_in, Transformer)
    pasted = paste(read_in, model, 2)
    stored = load_file(tmp_path / "checkpoint_pasting_linear_2.safetensors")
    learned = {k.removeprefix("parameter."): v for k, v in stored.items() if k.startswith("parameter.")}
    assert learned.keys() == {name for name, p in pasted.named_parameters() if p.requires_grad}
    pasted.load_state_dict(pasted.state_dict() | learned)
    prompts = task.sample(40, trainer.rng("test"))
    said = answer({"pasted": pasted, "bayes": bayes(task)}, prompts)
    expected = risk(said["pasted"], prompts.ys).value.tolist()
    found = [value(rows, predictor="linear", quantity="pasting_risk", layer=2, position=i) for i in range(5)]
    assert found == pytest.approx(expected)
    away = excess(said["pasted"], said["bayes"], prompts.ys).value.item()
    own = value(rows, predictor="linear", quantity="pasting_excess", layer=2)
    assert own == pytest.approx(away)
    for other, name, layer in (
        ("untrained", "linear_untrained", 2),
        ("full", "full", None),
        ("one_layer", "one_layer", 2),
    ):
        lead = value(rows, predictor="linear", quantity=f"pasting_lead_over_{other}", layer=2)
        assert lead == pytest.approx(value(rows, predictor=name, quantity="pasting_excess", layer=layer) - own)


def test_rows_of_the_cut_that_probes_choose_are_there_once_more_without_a_layer(tmp_path):
    rows = rows_of(perform(PASTED, tmp_path, silent, silent), "pasting")
    model, trainer = (
        Transformer.load(tmp_path / "weights.safetensors"),
        AuxiliaryTrainer(PASTED, tmp_path, "cpu", silent),
    )
    cut = value(rows, predictor="representation", quantity="pasting_cut")
    assert cut == chosen_cut(model, trainer) and cut in (1, 2)
    bare = [row for row in rows if row["layer"] is None and row["predictor"] in ("linear", "one_layer_untrained")]
    assert bare and all({**row, "layer": cut} in rows for row in bare)


def test_probes_choose_the_cut_after_which_the_representation_stands_at_the_labels(tmp_path):
    """Where the second block writes noise over everything, what the first one left is read best."""
    model, trainer = PASTED.initial(), AuxiliaryTrainer(PASTED, tmp_path, "cpu", silent)
    with torch.no_grad():
        model.blocks[1].mlp_out.weight.normal_(std=1e3, generator=generator())
    assert chosen_cut(model, trainer) == 1


@BOTH
def test_what_diverges_is_said_and_the_rest_is_there(experiment, tmp_path):
    wild = TrainingConfig(steps=40, batch=4, lr=1e30, warmup=0, clip=None)
    heard = []
    rows = perform(replace(experiment, eval=replace(experiment.eval, surgery=wild)), tmp_path, silent, heard.append)
    assert any("has no result: training diverged" in line for line in heard)
    left = {row["predictor"] for row in rows_of(rows, ("pasting_risk", "stitching_excess"))}
    expected = {"bayes", "zero"} if experiment is PASTED else {"other_seed_direct", "other_seed_affine_untrained"}
    assert expected <= left and not {"linear", "full", "other_seed_trained"} & left
    assert (tmp_path / "weights.safetensors").exists()


def test_a_run_that_starts_anew_forgets_all_that_was_trained_beside(tmp_path):
    for name in ("checkpoint", "checkpoint_pasting_full", "weights"):
        (tmp_path / f"{name}.safetensors").touch()
    Run(tmp_path).start_anew()
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]


# ---- stitching -----------------------------------------------------------------------------------------------------


def test_stitching_rows_agree_with_the_partner_that_was_kept(tmp_path):
    rows = perform(STITCHED, tmp_path, silent, silent)
    model, trainer = (
        Transformer.load(tmp_path / "weights.safetensors"),
        AuxiliaryTrainer(STITCHED, tmp_path, "cpu", silent),
    )
    trained = {name: partner for name, partner, _ in partners(trainer)}
    (tmp_path / "alone").mkdir()
    perform(OTHERS[1][1].experiment(STITCHED), tmp_path / "alone", silent, silent)
    alone = Transformer.load(tmp_path / "alone" / "weights.safetensors")  # a partner is the model of a run of its own
    assert all(map(torch.equal, alone.parameters(), trained["other_noise"].parameters()))
    prompts = LINEAR.sample(40, trainer.rng("test"))
    bridge = affine_bridge(model, alone, LINEAR.sample(FITTED, trainer.rng("fit")), 2)
    made = {"other_noise": alone, "other_noise_direct": Stitched(model, alone, 2)}
    made["other_noise_affine"] = Stitched(model, alone, 2, bridge=bridge)
    said = answer({"bayes": bayes(LINEAR), **made}, prompts)
    away = {name: excess(said[name], said["bayes"], prompts.ys).value.item() for name in made}
    for name, expected in away.items():
        cut = None if name == "other_noise" else 2
        assert value(rows, predictor=name, quantity="stitching_excess", layer=cut) == pytest.approx(expected)
    lead = value(rows, predictor="other_noise_affine", quantity="stitching_lead_over_direct", layer=2)
    assert lead == pytest.approx(away["other_noise_direct"] - away["other_noise_affine"])


def test_a_model_that_is_its_own_partner_loses_nothing_and_an_untrained_one_is_not_alike(tmp_path):
    model, trainer = STITCHED.initial(), AuxiliaryTrainer(STITCHED, tmp_path, "cpu", silent)
    other = replace(STITCHED, seed=3).initial()
    rows = list(stitching_rows(model, other, [("itself", model, LINEAR)], trainer))
    own = value(rows, predictor="itself", quantity="stitching_excess")
    for cut in (1, 2):
        for bridge in ("direct", "affine"):
            name = f"itself_{bridge}"
            assert value(rows, predictor=name, quantity="stitching_excess", layer=cut) == pytest.approx(own, rel=1e-3)
        for bridge in ("relative", "relative_trained"):
            lead = value(rows, predictor=f"itself_{bridge}", quantity="stitching_lead_over_own", layer=cut)
            assert lead == pytest.approx(0, abs=1e-5)
    assert [value(rows, predictor="itself", quantity="cka", layer=k, position=k) for k in range(4)] == pytest.approx(
        [1] * 4
    )
    assert value(rows, predictor="itself", quantity="cka_match") == 1
    assert value(rows, predictor="untrained", quantity="cka", layer=3, position=3) < 0.9


# ---- what is refused, and what is shown ----------------------------------------------------------------------------


def test_surgery_that_cannot_be_made_is_refused_before_the_training():
    shallow = replace(SHAPE, n_layer=1, layout="lagged")
    with pytest.raises(ValueError) as caught:
        replace(PASTED, task=LINEAR, model=shallow, eval=replace(PASTED.eval, prompts=8))
    for text in ("n_layer of 2 or more", "the layout is lagged", "given LinearRegression", "prompts of 16 or more"):
        assert f"the analysis 'pasting' needs {text}" in str(caught.value) or text in str(caught.value)
    unlike = (
        ("itself", Partner(seed=0)),
        ("longer", Partner(seed=1, task=replace(LINEAR, n=9))),
        ("a b", Partner(seed=2)),
    )
    with pytest.raises(ValueError) as caught:
        replace(STITCHED, eval=replace(STITCHED.eval, partners=unlike))
    for text in ("'itself' that is the model itself", "'longer' of d = 2, n = 9", "given 'a b'"):
        assert text in str(caught.value)
    with pytest.raises(ValueError, match=r"and eval\.partners are given together, or neither is"):
        replace(STITCHED, eval=replace(STITCHED.eval, partners=()))
    with pytest.raises(ValueError, match="for ReLUNetwork none is known"):
        replace(STITCHED, task=ReLUNetwork(2, 5, noise=0.5))


def test_experiments_without_surgery_keep_their_ids():
    plain = replace(PASTED, eval=Evaluation(prompts=40))
    assert not {"surgery", "partners"} & plain.mapping()["eval"].keys()
    assert Experiment.from_mapping(STITCHED.mapping(), "itself") == STITCHED
    assert Experiment.from_mapping(PASTED.mapping(), "itself") == PASTED


@BOTH
def test_a_run_shows_a_table_by_cut(experiment, tmp_path):
    rows = perform(experiment, tmp_path, silent, silent)
    (section,) = (s for s in Findings(rows).sections() if s.title.startswith(("pasting", "stitching")))
    assert list(section.columns) == ["predictor", "cut 1", "cut 2", "no cut"]
    body = {row[0]: row[1:] for row in section.body}
    names = ("one_layer", "full") if experiment is PASTED else ("other_seed_relative_trained", "other_seed")
    assert all(body[names[0]][:2]) and not body[names[0]][2]
    assert body[names[1]][2] and not any(body[names[1]][:2])


def test_without_a_folder_nothing_is_trained_beside():
    assert not rows_of(measure(PASTED, PASTED.initial()), "pasting")
