//! Words that users of Docker type by habit, and what stands for them here.

/// What a command of Docker's is here.
pub(super) fn command(word: &str) -> Option<&'static str> {
    Some(match word {
        "ps" | "ls" => "list instances with 'aegis instance list'",
        "create" | "start" => "start an instance with 'aegis instance start --name NAME -- COMMAND'",
        "stop" | "kill" => "stop an instance with 'aegis instance stop'",
        "restart" => "restart an instance with 'aegis instance restart'",
        "pause" => "pause an instance with 'aegis instance pause'",
        "unpause" => "let an instance go on with 'aegis instance resume'",
        "rm" | "remove" => "delete an instance with 'aegis instance delete'",
        "inspect" => "describe an instance with 'aegis instance info', an image with 'aegis image info'",
        "port" => "make ports reachable with 'aegis instance expose'",
        "prune" => "delete what is stopped with 'aegis instance prune'",
        "rename" => {
            "a handle stays as it is: 'aegis fork' or 'aegis instance start --from SNAPSHOT' give another one"
        }
        "attach" => {
            "follow the output with 'aegis logs --follow', or execute a shell with 'aegis exec -it INSTANCE -- sh'"
        }
        "top" => "see what instances use with 'aegis stats', or execute ps with 'aegis exec'",
        "wait" => "follow what happens with 'aegis events --follow'",
        "images" => "list images with 'aegis image list'",
        "rmi" => "delete an image with 'aegis image delete'",
        "pull" => "pull an image with 'aegis image pull'",
        "load" | "import" => "load an archive with 'aegis image load'",
        "save" | "export" => "save an image with 'aegis image save', an instance's files with 'aegis cp'",
        "build" => "images are built elsewhere, and loaded with 'aegis image load'",
        "volume" => "directories of the host are given with '--mount' and '--workspace'",
        "network" => "what an instance reaches is said with '--network', '--allow' and '--group'",
        "commit" => "keep an instance as it stands with 'aegis snapshot create'",
        _ => return None,
    })
}

/// What an option of Docker's is here.
pub(super) fn option(word: &str) -> Option<&'static str> {
    let name = word.split_once('=').map_or(word, |(name, _)| name);
    Some(match name {
        "-p" | "--publish" => "make a port reachable with '--expose [PUBLIC:]GUEST'",
        "-v" | "--volume" => "give a directory of the host with '--mount HOST:GUEST' or '--workspace'",
        "-e" => "set a variable with '--env KEY=VALUE'",
        "-w" => "say the working directory with '--workdir'",
        "-u" => "say the user with '--user'",
        "-m" => "say the memory with '--memory'",
        "-h" | "--hostname" => "its handle is its host name: '--name'",
        "-d" | "--detach" => "start what goes on in the background with 'aegis instance start'",
        "--rm" => "a run leaves nothing behind: leave it out",
        "--entrypoint" => "the command after -- is all that is executed",
        "--privileged" | "--cap-add" | "--device" => {
            "root of an instance has all of its machine: leave it out"
        }
        "-n" => "say how many lines with '--tail'",
        "-a" | "--archive" | "-r" => "modes, times and whole trees are copied always: leave it out",
        _ => return None,
    })
}
