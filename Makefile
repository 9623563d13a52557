# One target for each step. `make setup` first: it installs what the others need and ends at once when all is there.

.PHONY: setup
# Debian packages, kube-apiserver and etcd from source (minutes, once for all checkouts), the test guest.
setup:
	tools/setup
