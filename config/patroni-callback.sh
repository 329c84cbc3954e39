#!/bin/sh
# For Patroni's postgresql.callbacks.on_role_change, which calls it with: on_role_change <role> <cluster>.
# A running sidecar finishes a promotion by itself, and then this only waits for it; it matters when the sidecar is down.
# Patroni goes on without waiting for callbacks: this neither delays nor prevents a promotion.
set -eu

config=${SLOTSYNC_CONFIG:-/etc/slotsync.yaml}
role=${2:-}

case $role in
  primary | master | promoted)
    exec slotsync finish --config "$config" --timeout 300
    ;;
esac
