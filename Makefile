# One target for each step. Each does the set-up it needs; `make help` lists them.

# FULL=1 runs the whole matrices instead of a seeded sample; SEED=n repeats a sample.
# Not set at all otherwise: an empty variable is a variable.
ifdef FULL
export HOMEWARD_FULL := $(FULL)
endif
ifdef SEED
export HOMEWARD_SEED := $(SEED)
endif
CARGO ?= cargo

.PHONY: help
help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

.PHONY: setup
## setup       Debian packages, kube-apiserver and etcd from source (minutes, once for all checkouts), the test guest
setup:
	tools/setup kube guest

.PHONY: test
## test        everything that is tested: units, properties, controllers on a real API server, guests end to end (FULL=1, SEED=n)
test: setup
	$(CARGO) test --workspace --locked --no-fail-fast

.PHONY: lint
## lint        formatting, lints, and that every mutant still applies
lint:
	tools/mutants/run --check
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

.PHONY: generate
## generate    rewrites what is generated from the code: crds/
generate:
	$(CARGO) run --locked --quiet -- crds --output crds

.PHONY: bench
## bench       the data plane against rsync, nbdcopy and cp, in one run (release build, a 2 GiB image, 8 GiB of space)
bench:
	tools/setup bench
	$(CARGO) bench --locked --bench transfer

FLEET ?= 5000

.PHONY: bench-fleet
## bench-fleet what a large fleet costs the operator (release build; FLEET=n VMs, 5000)
bench-fleet:
	tools/setup kube
	FLEET=$(FLEET) $(CARGO) bench --locked -p homeward-playground --bench fleet

.PHONY: bench-operator
## bench-operator what a large vault of Azure Site Recovery costs the operator, in the emulator (release build; FLEET=n VMs, MOVES=n at once)
bench-operator:
	tools/setup kube
	FLEET=$(FLEET) $(CARGO) bench --locked -p homeward-playground --bench operator

DRIVER ?= agents
VMS ?= 1
# Only agents have guests.
GUEST = $(if $(filter agents,$(DRIVER)),guest)
# The programs as they are found below, wherever cargo puts them.
BUILT = $${CARGO_TARGET_DIR:-target}/debug

.PHONY: demo
## demo        a real guest goes to Azure and comes home, narrated, with proof that nothing was lost; DRIVER=azureSiteRecovery: a VM of
##             the emulated service
demo:
	@tools/setup kube $(GUEST)
	@$(CARGO) build --workspace --bins --locked
	@exec $(BUILT)/demo --driver $(DRIVER)

.PHONY: playground
## playground  the same world, left running until Ctrl-C, with the commands to try (VMS=n, DRIVER=azureSiteRecovery)
playground:
	@tools/setup kube $(GUEST)
	@$(CARGO) build --workspace --bins --locked
	@exec $(BUILT)/playground --driver $(DRIVER) --vms $(VMS)

.PHONY: mutants
## mutants     takes each guard out in turn and sees a test fail (long; RULE=S2 for one rule)
mutants:
	tools/setup kube
	tools/mutants/run $(RULE)
