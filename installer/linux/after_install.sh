#!/bin/sh
# deb: postinst, rpm: %post. A new agent starts with the machine; one that ran runs again, with what was kept.
# Words: deb gives "configure" and the release before (none at first), or "abort-…" where nothing was changed; rpm
# gives the number of releases that are then here.
set -e

command -v systemctl >/dev/null || exit 0
first=no
[ "${1:-}" = 1 ] && first=yes
[ "${1:-}" = configure ] && [ -z "${2:-}" ] && first=yes
# Only once: what the operator turned off stays off.
[ "$first" = no ] || systemctl enable --quiet outhaul-agent.service || :

if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    if [ -e /run/outhaul-agent.start-again ]; then
        rm -f /run/outhaul-agent.start-again
        systemctl start --no-block outhaul-agent.service || :
    fi
fi

if [ "$first" = yes ]; then
    echo "outhaul-agent: now change /etc/outhaul-agent/agent.toml, then run, as root:"
    echo "    outhaul-agent enroll --token TOKEN"
    echo "    outhaul-agent check"
    echo "    outhaul-agent service start"
fi
