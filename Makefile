# make          what there is to make
# make book     the website, in _build/html

# Another Python: make book PYTHON=python3.12. It must be 3.11 or newer.
PYTHON = python3
# On CI the exact versions of the lock; elsewhere, or with LOCK= empty, what the ranges admit.
LOCK = $(if $(CI),requirements.lock)
# make serve PORT=8001
PORT = 8000
# What make bench measures, the short ones first; make bench BENCH=pipeline measures one.
BENCH = memory pipeline book training same_accuracy time_to_accuracy

BOOK_PYTHON = .venv-book/bin/python
COURSE_PYTHON = .venv/bin/python
PIP = -m pip --disable-pip-version-check install -qq --no-compile $(addprefix -c ,$(LOCK))

.PHONY: help book student pdf test check record lab serve bench linkcheck clean

help:
	@echo 'make book        build the website into _build/html; needs neither torch nor data'
	@echo 'make serve       show it on http://127.0.0.1:$(PORT)'
	@echo 'make student     the website and notebooks without solutions, in _build/student'
	@echo 'make pdf         the whole book as one PDF; needs Chromium or Chrome'
	@echo 'make lab         open the chapters in JupyterLab'
	@echo 'make check       lint, and see that notebooks and pages are in step; under 30 s'
	@echo 'make test        everything: lint, tests, notebooks, pages'
	@echo 'make record      run chapters and keep their outputs; CHAPTER=resnet PROFILE=full DEVICE=cuda'
	@echo 'make bench       measure this machine again; BENCH=pipeline for one; about an hour for all'
	@echo 'make linkcheck   follow every link of the pages, to other sites too; needs the network'
	@echo 'make clean       remove what was built; the environments .venv and .venv-book stay'

# An interrupted installation leaves no stamp, so that the next make finishes it.
.venv-book/installed: requirements-book.txt $(LOCK)
	@$(call environment,.venv-book)
	@echo 'installing what the book needs into .venv-book'
	@$(BOOK_PYTHON) $(PIP) -r requirements-book.txt
	@touch $@

.venv/installed: requirements.txt requirements-book.txt $(LOCK)
	@$(call environment,.venv)
	@echo 'installing what notebooks and tests need into .venv; torch is large, this takes minutes'
	@$(COURSE_PYTHON) $(PIP) -r requirements.txt -r requirements-book.txt
	@touch $@

# $(call environment,FOLDER): a virtual environment made by a Python that is new enough.
define environment
command -v $(PYTHON) >/dev/null || { \
	echo 'There is no $(PYTHON): install Python 3.11 or newer, or name it: make PYTHON=python3.12' >&2; \
	exit 1; }; \
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	echo "The course needs Python 3.11 or newer, and this is $$($(PYTHON) --version 2>&1):" \
		'install a newer one and name it: make PYTHON=python3.12' >&2; \
	exit 1; }; \
$(PYTHON) -m venv $(1)
endef

BUILD = .venv-book/bin/jupyter-book build -q -W -n --keep-going . >/dev/null

book: .venv-book/installed
	@$(BUILD)
	@$(BOOK_PYTHON) -m utils.notebooks sync
	@echo 'The book is at $(CURDIR)/_build/html/index.html'

check: .venv-book/installed
	@.venv-book/bin/ruff check --quiet --output-format concise .
	@.venv-book/bin/ruff format --quiet --check --output-format concise . || { \
		echo 'Some files are not formatted: .venv-book/bin/ruff format . does it.' >&2; exit 1; }
	@.venv-book/bin/codespell
	@$(BUILD)
	@$(BOOK_PYTHON) -m utils.notebooks check

# Copied, not built here, so that pages and notebooks with solutions stay untouched.
student: .venv-book/installed
	@$(BOOK_PYTHON) -m utils.student
	@cd _build/student && $(CURDIR)/$(BUILD)
	@$(BOOK_PYTHON) -m utils.notebooks sync --root _build/student >/dev/null
	@echo 'The book without solutions is at $(CURDIR)/_build/student/_build/html/index.html,'
	@echo 'its notebooks in $(CURDIR)/_build/student/chapters'

pdf: .venv/installed book
	@$(COURSE_PYTHON) -m utils.pdf

# One pytest for all: unit tests, every notebook run on the smoke profile, and the built pages.
test: .venv/installed check
	$(COURSE_PYTHON) -m pytest -n 2 --nbval --nbval-current-env --nbval-cell-timeout 120 \
		--nbval-sanitize-with tests/nbval-sanitize.cfg tests chapters/*.ipynb

record: .venv/installed
	@$(COURSE_PYTHON) -m utils.record $(if $(CHAPTER),--chapter $(CHAPTER)) \
		$(if $(PROFILE),--profile $(PROFILE)) $(if $(DEVICE),--device $(DEVICE))
	@$(MAKE) --no-print-directory book

# Trusted, because JupyterLab shows no SVG, as the figures are, of notebooks that it does not know.
lab: .venv/installed
	@$(COURSE_PYTHON) -m jupyter trust chapters/*.ipynb >/dev/null
	@$(COURSE_PYTHON) -m jupyterlab chapters

serve: .venv-book/installed
	@test -f _build/html/index.html || $(MAKE) --no-print-directory book
	@echo 'http://127.0.0.1:$(PORT) shows the book; Ctrl-C ends it'
	@$(BOOK_PYTHON) -m http.server --bind 127.0.0.1 --directory _build/html $(PORT) || { \
		echo 'Port $(PORT) is taken, it seems; another: make serve PORT=8001' >&2; exit 1; }

bench: .venv/installed
	@echo 'Nothing else should run on this machine until this has ended: it would be measured too.'
	@for name in $(BENCH); do \
		echo; $(COURSE_PYTHON) -m benchmarks.$$name || exit 1; \
	done

linkcheck: book
	@$(BOOK_PYTHON) -m utils.links

clean:
	rm -rf _build .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
