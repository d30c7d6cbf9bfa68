# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
# bash completion of uswap-agent(8)

_uswap_agent() {
	local cur=${COMP_WORDS[COMP_CWORD]}

	mapfile -t COMPREPLY < <(compgen -W '--config= --socket= --store= --bus-address= --foreground
		--check-config --check --collect-host= --version --help' -- "$cur")
	if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]]; then
		compopt -o nospace
	fi
}
complete -o default -F _uswap_agent uswap-agent
