//! The help on the screen.

/// In lines of at most 80 columns, and few enough for a terminal of 24.
pub const HELP: &str = "\
q  Ctrl-C     quit                       p  space    freeze the picture, go on
s  t  n       sort by self, total, name  left right  the same in turn: see the *
/             show functions that match a regular expression, or contain a text
Esc           clear that                 l           Lua functions only, or all
w             all time, or recent        r           count from now on
Tab  1-9  0   choose a process; 0: all   arrows, PgUp PgDn, Home End: scroll

CPU%  share of one CPU; beside it what the VM did then, in percent of that:
      interp   bytecode in the interpreter   compiled   machine code of a trace
      C func   a C function called from Lua  GC         the garbage collector
      exit     on the way out of a trace     compiling  the JIT compiler
      outside  no VM is on the stack of the thread
SELF  samples in the function itself; with l also in native code it called
TOTAL samples in it and what it called
KIND  Lua: interpreted, compiled, inlined (in a trace), + otherwise as well
      builtin: a builtin or C function of Lua; missing: frames are not known
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_fits_a_terminal_of_usual_size() {
        assert!(HELP.lines().count() <= 20 && HELP.lines().all(|line| line.len() <= 80), "{HELP}");
    }
}
