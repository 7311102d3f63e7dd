# bash completion for vmctl: source <(vmctl completion bash)
_vmctl() {
    local IFS=$'\n'
    COMPREPLY=($(vmctl __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
    compopt -o default 2>/dev/null
}
complete -F _vmctl vmctl
