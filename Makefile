# The two commands are `make demo` and `make test`; both create what is missing.

PYTHON ?= python3
BIN := .venv/bin
RUN := OMP_NUM_THREADS=1 $(BIN)

.PHONY: demo test test-slow test-faults test-engines reproduce results docs lint format clean

# The stamp is new again whenever what is installed should change.
.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,dev]'
	touch $@

demo: .venv/ready
	$(RUN)/iclab sweep tasks/linear_regression.toml
	$(RUN)/python paper_figs/risk_by_examples.py runs/linear_regression

# Every study at laptop scale, and what is otherwise than in the results that are kept.
reproduce: .venv/ready
	for file in tasks/*.toml; do $(RUN)/iclab sweep $$file || failed=1; done; \
	$(RUN)/iclab verdicts runs --compare paper_figs/results && test -z "$$failed"

# Keeps the results of runs/, if there are any, draws every figure and writes the pages that are made of results.
results: .venv/ready
	$(RUN)/iclab results paper_figs $(if $(wildcard runs/*/study.toml),--runs runs)

test: .venv/ready
	$(RUN)/python -m pytest -n auto --dist worksteal -q

# What `make test` leaves out or does at a smaller size; properties once more, on more examples.
test-slow: .venv/ready
	$(RUN)/python -m pytest -n auto --dist worksteal -q -m 'slow or hypothesis' --full

# Kills, full disks, damaged files and files that anyone might have written; ends with a table of what was tried.
test-faults: .venv/ready
	$(RUN)/python -m pytest -q -m faults tests/faults

# Dask clusters and, where slurmctld is on PATH, a Slurm of its own: killed workers, clients, controllers and nodes.
test-engines: .venv/ready
	$(RUN)/python -m pytest -q -m 'slow or slurm' tests/runs/engines

# The site, from docs/ and from what the package knows; without a network once its tools are installed.
docs: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(RUN)/sphinx-build -W --keep-going -q -j auto docs site

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv runs site docs/generated
