# Each target sets up what it needs and works alone on a clean clone. `make help` lists them.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python -m
# requirements.txt pins every version; the extras named with it say what to install.
INSTALL := $(RUN) pip install --quiet --disable-pip-version-check --constraint requirements.txt
PINS := $(VENV)/.made setup.cfg pyproject.toml requirements.txt

# The scheme alone, unexpanded: what follows it in the URL may be a password.
URL_SCHEME := $(firstword $(subst :, ,$(value POOLED_DB_URL)))
NEEDS_CONNECTOR := $(filter mariadb %+mariadbconnector,$(URL_SCHEME))
NEEDS_POSTGRES := $(filter postgres postgresql postgresql+%,$(URL_SCHEME))

# Debian's packages by what shows that they are there: a command, or a file.
PYTHON_PACKAGES := "$$stdlib/ensurepip=$(notdir $(PYTHON))-venv"
CONNECTOR_PACKAGES := gcc=gcc /usr/include/stdio.h=libc6-dev mariadb_config=libmariadb-dev \
	"$$headers/Python.h=$(notdir $(PYTHON))-dev"
SERVER_PACKAGES := mariadbd=mariadb-server-core my_print_defaults=mariadb-client-core \
	/usr/lib/galera/libgalera_smm.so=galera-4 \
	pg_ctlcluster=postgresql pgbouncer=pgbouncer
# Valkey does as well, where it is installed.
QUEUE_PACKAGES := $(if $(wildcard /usr/bin/valkey-server),,redis-server=redis-server)
FAULTS_PACKAGES := haproxy=haproxy rsync=rsync wsrep_sst_rsync=mariadb-server
BROWSER_PACKAGES := chromium=chromium chromedriver=chromium-driver

# Six tests at a time: much of what they do is waiting for servers.
PARALLEL := --numprocesses 6 --dist worksteal

# The tests' servers and files are in memory where it has room for them: on a disk, the tests wait for
# each other's commits. The folder is open to all, as a PostgreSQL started by root runs as another
# user; its name is short, as the path of a socket has to be. Python keeps the bytecode of what the
# tests start hundreds of times, even where the machine is set not to keep any.
SCRATCH := unset POOLED_DB_URL PYTHONDONTWRITEBYTECODE; \
	room=$$(df --output=avail -BM /dev/shm 2>/dev/null | tail -n 1 | tr -cd 0-9) || true; \
	if [ "$${room:-0}" -ge 3000 ]; then \
		TMPDIR=$$(mktemp -d /dev/shm/db-XXXXXX); \
		trap 'rm -rf "$$TMPDIR"' EXIT; \
		trap 'exit 1' HUP INT TERM; \
		chmod 1777 "$$TMPDIR"; \
		export TMPDIR; \
	fi

# What differs here from the last commit; nothing outside a git checkout. Without git's lock, so that
# the checkout can be worked in meanwhile.
TREE := { git --no-optional-locks status --porcelain --untracked-files=all -- . 2>/dev/null || true; }
TREE_BEFORE := $(VENV)/.tree

# Which promise has held on which driver. pytest is given it with a "=": it would take a file that stands
# alone for tests, and would look for its conftest.py there.
PROMISES := $(VENV)/promises.md

# An ordinary user's PATH leaves out where Debian keeps servers.
export PATH := $(PATH):/usr/sbin:/sbin

SHELL := /bin/sh
.SHELLFLAGS := -eu -c
.ONESHELL:
.NOTPARALLEL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help run test test-quick test-mysql lint bench faults clean \
	mysql-url system-python system-connector system-server system-faults system-tests \
	system-browser

help:
	@cat <<'END'
	make run         serve example_app on 127.0.0.1:8000 (on SQLite, or on POOLED_DB_URL)
	make test        the whole suite, with branch coverage
	make test-quick  the suite without what is slow, or needs a server or a browser
	make test-mysql  what uses the suite's shared server, on the MySQL that POOLED_DB_TEST_MYSQL names
	make lint        ruff and mypy
	make bench       the benchmarks
	make faults      what is lost when servers are broken under load, beside other pools
	make clean       remove all that the other targets made, but not the example's data
	END

run: $(VENV)/.run $(if $(NEEDS_CONNECTOR),$(VENV)/.connector) $(if $(NEEDS_POSTGRES),$(VENV)/.postgres)
	$(RUN) flask --app example_app init-db
	exec $(RUN) gunicorn -c example_app/gunicorn.conf.py

# The tests start servers of their own: they must not meet the one POOLED_DB_URL names.
# Ubuntu has no Chromium among its packages: there, the browser's tests are left out; never in CI.
test: system-tests $(VENV)/.dev $(VENV)/.connector $(VENV)/.dbutils
	$(SCRATCH)
	$(TREE) >$(TREE_BEFORE)
	left_out="alone"
	if ! make --no-print-directory PYTHON=$(PYTHON) system-browser; then
		[ -z "$${CI:-}" ] || exit 1
		echo "Without Chromium the browser's tests are left out." >&2
		left_out="alone or browser"
	fi
	$(RUN) coverage erase
	rm -f $(PROMISES)
	$(RUN) coverage run -m pytest -m "not ($$left_out)" $(PARALLEL) --promises=$(PROMISES)
	$(RUN) coverage run -m pytest -m alone --promises=$(PROMISES)
	$(RUN) coverage combine --quiet
	$(RUN) coverage report
	$(TREE) | diff $(TREE_BEFORE) - || { echo "The tests have changed these files." >&2; exit 1; }
	diff docs/promises.md $(PROMISES) || {
		echo "docs/promises.md says something else than the tests: cp $(PROMISES) docs/" >&2
		exit 1
	}

test-quick: system-server $(VENV)/.dev $(VENV)/.connector $(VENV)/.dbutils
	$(SCRATCH)
	$(TREE) >$(TREE_BEFORE)
	$(RUN) pytest -m "not (slow or alone or browser or on_server)" $(PARALLEL)
	$(TREE) | diff $(TREE_BEFORE) - || { echo "The tests have changed these files." >&2; exit 1; }

test-mysql: mysql-url $(VENV)/.dev $(VENV)/.connector
	unset POOLED_DB_URL
	$(RUN) pytest --mysql

lint: $(VENV)/.dev
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) mypy

bench: system-server $(VENV)/.dev $(VENV)/.connector
	unset POOLED_DB_URL
	exec $(RUN) benchmarks

faults: system-faults $(VENV)/.dev $(VENV)/.connector
	unset POOLED_DB_URL
	exec $(RUN) faults

clean:
	rm -rf $(VENV) build dist *.egg-info htmlcov .coverage .coverage.* .hypothesis .*_cache
	find . -path ./.git -prune -o -name __pycache__ -exec rm -rf {} +

# A virtual environment without ensurepip is a broken one, so it is looked for before.
$(VENV)/.made: | system-python
	@echo "Making $(VENV)."
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.run: $(PINS)
	@echo "Installing the example app's requirements."
	$(INSTALL) --editable '.[pymysql]' gunicorn flask-sock
	touch $@

$(VENV)/.dev: $(PINS)
	@echo "Installing the development tools."
	$(INSTALL) --editable '.[dev,pymysql]'
	touch $@

$(VENV)/.connector: $(PINS) | system-connector
	@echo "Building the MariaDB connector."
	$(INSTALL) --editable '.[mariadb]'
	touch $@

$(VENV)/.postgres: $(PINS)
	@echo "Installing psycopg."
	$(INSTALL) --editable '.[postgres]'
	touch $@

# DBUtils' own tests are in its source distribution alone. What pip says of a failure is kept.
$(VENV)/.dbutils: $(PINS)
	@echo "Fetching DBUtils' own tests."
	rm -rf $(VENV)/dbutils
	mkdir $(VENV)/dbutils
	if ! $(RUN) pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: \
		--constraint requirements.txt --dest $(VENV)/dbutils dbutils >$@.log 2>&1; then
		echo "The source of DBUtils can't be fetched from a package index: see $@.log" >&2
		exit 1
	fi
	tar -xzf $(VENV)/dbutils/*.tar.gz -C $(VENV)/dbutils --strip-components 1
	touch $@

# It is asked for before anything is installed. The URL holds a password: nothing prints it.
mysql-url:
	@case "$${POOLED_DB_TEST_MYSQL:-}" in
		mysql://*@*) ;;
		*)
			echo "Name a MySQL server: POOLED_DB_TEST_MYSQL=mysql://user:password@127.0.0.1:3306/" >&2
			exit 1 ;;
	esac

system-python: PACKAGES := $(PYTHON_PACKAGES)
system-connector: PACKAGES := $(PYTHON_PACKAGES) $(CONNECTOR_PACKAGES)
system-server: PACKAGES := $(PYTHON_PACKAGES) $(CONNECTOR_PACKAGES) $(SERVER_PACKAGES)
system-faults: PACKAGES := $(PYTHON_PACKAGES) $(CONNECTOR_PACKAGES) $(SERVER_PACKAGES) \
	$(FAULTS_PACKAGES)
system-tests: PACKAGES := $(PYTHON_PACKAGES) $(CONNECTOR_PACKAGES) $(SERVER_PACKAGES) \
	$(FAULTS_PACKAGES) $(QUEUE_PACKAGES)
system-browser: PACKAGES := $(PYTHON_PACKAGES) $(CONNECTOR_PACKAGES) $(SERVER_PACKAGES) \
	$(FAULTS_PACKAGES) $(BROWSER_PACKAGES)

system-python system-connector system-server system-faults system-tests system-browser:
	@python=$(VENV)/bin/python
	[ -e $(VENV)/.made ] || python=$(PYTHON)
	if ! $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
		echo "'$$python' is no Python 3.11 or newer: name one, as in 'make PYTHON=python3.12'." >&2
		exit 1
	fi
	stdlib=$$($$python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
	headers=$$($$python -c 'import sysconfig; print(sysconfig.get_path("include"))')
	missing=
	for package in $(PACKAGES); do
		sign=$${package%%=*}
		[ -e "$$sign" ] || command -v "$$sign" >/dev/null || missing="$$missing $${package#*=}"
	done
	[ -n "$$missing" ] || exit 0
	if [ "$$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
		export DEBIAN_FRONTEND=noninteractive
		echo "Installing with apt-get:$$missing"
		apt-get update -qq || true
		if apt-get install -qq --yes --no-install-recommends --no-remove $$missing </dev/null; then
			exit 0
		fi
	fi
	echo "Packages are missing on this machine: sudo apt-get install$$missing" >&2
	exit 1
