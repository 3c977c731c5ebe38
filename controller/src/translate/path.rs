//! Paths of rules. A rule's path is taken literally, in the form that requests are matched in:
//! decoded, slashes merged, dot segments resolved. So `/a%20b` means a percent sign, as in
//! ingress-nginx, and a path that no canonical request path can equal is an error.

use gatehouse_gateway::model::{PathKind, PathMatch};

/// What is wrong with a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathError {
    /// The path itself (why).
    Path(&'static str),
    /// The path type.
    Kind,
}

/// Parses the path and path type of a rule. The empty path is `/`; the empty path type and
/// `ImplementationSpecific` are Prefix.
pub fn parse(path: Option<&str>, path_type: &str) -> Result<PathMatch, PathError> {
    let kind = match path_type {
        "Exact" => PathKind::Exact,
        "" | "Prefix" | "ImplementationSpecific" => PathKind::Prefix,
        _ => return Err(PathError::Kind),
    };
    let path = match path {
        None | Some("") => "/",
        Some(path) => path,
    };
    if !path.starts_with('/') {
        return Err(PathError::Path("a path begins with `/`"));
    }
    if path.contains("//") {
        return Err(PathError::Path(
            "it can never match: repeated slashes of a request are merged",
        ));
    }
    if path
        .split('/')
        .any(|segment| segment == "." || segment == "..")
    {
        return Err(PathError::Path(
            "it can never match: `.` and `..` of a request are resolved",
        ));
    }
    if path.contains('\0') {
        return Err(PathError::Path("it contains a NUL"));
    }
    Ok(PathMatch {
        kind,
        path: path.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_literal_and_begin_with_a_slash() {
        let prefix = |path: &str| {
            Ok(PathMatch {
                kind: PathKind::Prefix,
                path: path.into(),
            })
        };
        assert_eq!(parse(None, ""), prefix("/"));
        assert_eq!(parse(Some(""), "Prefix"), prefix("/"));
        assert_eq!(
            parse(Some("/a%20b"), "ImplementationSpecific"),
            prefix("/a%20b")
        );
        assert_eq!(parse(Some("/x/"), "Prefix"), prefix("/x/"));
        assert_eq!(parse(Some("/x"), "exact"), Err(PathError::Kind));
        for bad in ["x", "*", "//", "/a//b", "/a/../b", "/.", "/a\0"] {
            assert!(
                matches!(parse(Some(bad), "Exact"), Err(PathError::Path(_))),
                "{bad}"
            );
        }
    }
}
