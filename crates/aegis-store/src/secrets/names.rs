//! Names of secrets: those of environment variables, but for the ones that change how programs load.

/// Longest name.
const MOST_NAME: usize = 128;
/// Longest value, bytes.
const MOST_VALUE: usize = 64 << 10;
/// Variables by which loaders, shells and interpreters find or execute code.
const REFUSED: [&str; 27] = [
    "BASHOPTS",
    "BASH_ENV",
    "CDPATH",
    "CLASSPATH",
    "ENV",
    "GCONV_PATH",
    "GLIBC_TUNABLES",
    "HOME",
    "IFS",
    "JAVA_TOOL_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "LOCPATH",
    "NLSPATH",
    "NODE_OPTIONS",
    "NODE_PATH",
    "PATH",
    "PERL5DB",
    "PERL5LIB",
    "PERL5OPT",
    "PROMPT_COMMAND",
    "PYTHONHOME",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "RUBYLIB",
    "RUBYOPT",
    "SHELLOPTS",
    "_JAVA_OPTIONS",
];
/// The same, as beginnings of names.
const REFUSED_PREFIXES: [&str; 3] = ["LD_", "DYLD_", "BASH_FUNC_"];

/// Why this cannot be the name of a secret, if it cannot.
#[must_use]
pub fn refusal(name: &str) -> Option<String> {
    let first = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    let shaped = name.bytes().next().is_some_and(first)
        && name.bytes().all(|byte| first(byte) || byte.is_ascii_digit())
        && name.len() <= MOST_NAME;
    if !shaped {
        return Some(format!(
            "{name:?} is no name: at most {MOST_NAME} of A-Z, a-z, 0-9 and _, no digit first"
        ));
    }
    let upper = name.to_ascii_uppercase();
    let refused =
        REFUSED.contains(&upper.as_str()) || REFUSED_PREFIXES.iter().any(|prefix| upper.starts_with(prefix));
    refused.then(|| format!("{name} would change how programs are found or loaded, which no secret may"))
}

/// Why this cannot be the value of a secret, if it cannot.
#[must_use]
pub fn value_refusal(value: &str) -> Option<String> {
    if value.len() > MOST_VALUE {
        return Some(format!("a secret has at most {MOST_VALUE} bytes"));
    }
    value.contains('\0').then(|| "a secret is an environment variable and cannot contain NUL".to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_changes_how_programs_load_is_refused() {
        for name in
            ["LD_PRELOAD", "ld_library_path", "PATH", "Path", "BASH_ENV", "PYTHONPATH", "DYLD_X", "IFS"]
        {
            assert!(refusal(name).unwrap().contains("loaded"), "{name}");
        }
        for name in ["", "1A", "A-B", "A B", "A=B", "Ä", &"A".repeat(129)] {
            assert!(refusal(name).unwrap().contains("no name"), "{name}");
        }
        for name in ["TOKEN", "_x", "OPENAI_API_KEY", "PATHS", "A1"] {
            assert_eq!(refusal(name), None);
        }
        assert!(value_refusal("a\0b").is_some() && value_refusal(&"x".repeat(70_000)).is_some());
    }

    proptest! {
        #[test]
        fn a_name_that_is_not_refused_is_plain(name in ".{0,20}") {
            if refusal(&name).is_none() {
                prop_assert!(!name.is_empty() && !name.contains(['=', '\0', '/', ' ']));
            }
        }
    }
}
