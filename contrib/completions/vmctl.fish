# fish completion for vmctl: vmctl completion fish | source
complete -c vmctl -a '(vmctl __complete (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'
