//! Which of a host's routes fit a path, and in which order.
//!
//! The definition is the list of [`Place`]s, best first: the first that fits answers, the others
//! that fit are candidates behind it, to which later conditions (headers, methods) can fall back.
//! Hosts with many routes answer the same question by one descent of a tree instead: every place
//! where the answer can change is a key, and holds all routes that fit there.
//!
//! Invariants:
//! - Exact beats Prefix, the longer prefix beats the shorter, whole path elements are compared,
//!   case counts.
//! - A path that only lacks the final slash of a route (`TrailingSlash`) belongs to that route
//!   when nothing is defined for the path itself; this beats every shorter prefix (nginx).
//! - A host that the tree refuses keeps its list: slower, never wrong, never missing.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::Route;
use crate::model::{PathKind, PathMatch};

/// Up to this many places a list in one piece of memory is faster than the tree, whose nodes are
/// spread: among 10,000 hosts every touched line of memory is a miss.
const FEW: usize = 16;

/// The matcher of a host.
pub(super) enum Paths {
    /// All places, best first.
    List(List),
    /// One descent.
    Tree(Box<Tree>),
}

/// Places of a host with their texts in one piece.
pub(super) struct List {
    places: Box<[Place]>,
    text: Box<[u8]>,
}

/// Where a route fits, with the position of its text.
struct Place {
    route: Arc<Route>,
    start: u32,
    length: u32,
    kind: PlaceKind,
}

/// How the text of a place is compared. The order is the precedence at equal length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum PlaceKind {
    /// The whole path.
    Exact,
    /// The first elements of the path.
    Prefix,
    /// The whole path, which lacks the final slash of the route.
    Slash,
}

/// Candidates by place.
pub(super) struct Tree {
    router: matchit::Router<Candidates>,
    /// Candidates of a path outside the tree, such as `*`: the routes for everything.
    everything: Candidates,
}

/// Routes that fit one place, best first.
type Candidates = Box<[Arc<Route>]>;

impl Paths {
    /// Builds the matcher. The second value is false when the tree was wanted and refused.
    pub(super) fn new(routes: &[Arc<Route>]) -> (Self, bool) {
        let list = List::new(routes);
        if list.places.len() <= FEW {
            return (Self::List(list), true);
        }
        match Places::new(routes).tree() {
            Ok(tree) => (Self::Tree(Box::new(tree)), true),
            Err(_) => (Self::List(list), false),
        }
    }

    /// The routes that fit a canonical path; the first answers.
    pub(super) fn candidates(&self, path: &str) -> impl Iterator<Item = &Arc<Route>> {
        let (list, tree) = match self {
            Self::List(list) => (Some(list.candidates(path)), None),
            Self::Tree(tree) => (None, Some(tree.candidates(path))),
        };
        list.into_iter().flatten().chain(tree.into_iter().flatten())
    }
}

impl List {
    fn new(routes: &[Arc<Route>]) -> Self {
        let own = routes.iter().map(|route| {
            let kind = match route.key.path.kind {
                PathKind::Exact => PlaceKind::Exact,
                PathKind::Prefix => PlaceKind::Prefix,
            };
            (kind, &*route.key.path.path, route)
        });
        let slashes = routes
            .iter()
            .filter_map(|route| Some((PlaceKind::Slash, &**route.slash()?, route)));
        let mut all: Vec<_> = own.chain(slashes).collect();
        all.sort_by_key(|&(kind, text, _)| (kind != PlaceKind::Exact, Reverse(text.len()), kind));
        let mut texts = Vec::new();
        let places = all.into_iter().map(|(kind, text, route)| {
            // A host cannot hold 4 GiB of paths: an object has 1.5 MiB at most.
            let start = u32::try_from(texts.len()).unwrap_or(u32::MAX);
            texts.extend_from_slice(text.as_bytes());
            Place {
                route: Arc::clone(route),
                start,
                length: u32::try_from(text.len()).unwrap_or(u32::MAX),
                kind,
            }
        });
        Self {
            places: places.collect(),
            text: texts.into_boxed_slice(),
        }
    }

    fn candidates(&self, path: &str) -> impl Iterator<Item = &Arc<Route>> {
        let path = path.as_bytes();
        let fitting = self.places.iter().filter(move |place| {
            // Most places are longer than the path or differ in length: nothing to compare.
            let (start, length) = (place.start as usize, place.length as usize);
            let possible = match place.kind {
                PlaceKind::Exact | PlaceKind::Slash => length == path.len(),
                PlaceKind::Prefix => length <= path.len() || length == 1,
            };
            let text = || self.text.get(start..start + length);
            possible && text().is_some_and(|text| fits(place.kind, text, path))
        });
        fitting.map(|place| &place.route)
    }
}

/// Whether a place fits a path. `/` matches everything, even a target such as `*`.
fn fits(kind: PlaceKind, text: &[u8], path: &[u8]) -> bool {
    match kind {
        PlaceKind::Exact | PlaceKind::Slash => text == path,
        PlaceKind::Prefix => {
            // `/x/` does not match `/x`; `/x` matches itself and what follows a slash.
            let ends = || match path.get(text.len()) {
                None | Some(b'/') => true,
                Some(_) => text.ends_with(b"/"),
            };
            text == b"/" || (ends() && path.starts_with(text))
        }
    }
}

impl Tree {
    fn candidates(&self, path: &str) -> &[Arc<Route>] {
        self.router
            .at(path)
            .map_or(&self.everything, |found| found.value)
    }
}

/// Why a route does not fit a path, in words for `explain`.
pub(super) fn why_not(wanted: &PathMatch, path: &str) -> &'static str {
    if path.starts_with(&*wanted.path) {
        return match wanted.kind {
            PathKind::Exact => "the path goes on, and Exact compares the whole of it",
            PathKind::Prefix => "Prefix compares whole path elements",
        };
    }
    let slash = |text: &str| text.strip_suffix('/').map(str::len);
    if slash(&wanted.path) == Some(path.len()) && wanted.path.starts_with(path) {
        return "the request lacks the final slash of this path";
    }
    let folded = wanted.path.len();
    if path
        .get(..folded)
        .is_some_and(|start| start.eq_ignore_ascii_case(&wanted.path))
    {
        return "upper and lower case differ";
    }
    "another path"
}

/// The routes of a host by the text they compare.
struct Places<'a> {
    exact: Map<'a>,
    prefix: Map<'a>,
    slash: Map<'a>,
}

type Map<'a> = HashMap<&'a str, &'a Arc<Route>, foldhash::fast::RandomState>;

impl<'a> Places<'a> {
    fn new(routes: &'a [Arc<Route>]) -> Self {
        let mut places = Self {
            exact: Map::default(),
            prefix: Map::default(),
            slash: Map::default(),
        };
        for route in routes {
            let path: &str = &route.key.path.path;
            match route.key.path.kind {
                PathKind::Exact => places.exact.entry(path).or_insert(route),
                PathKind::Prefix => places.prefix.entry(path).or_insert(route),
            };
            if let Some(slash) = route.slash() {
                places.slash.entry(slash).or_insert(route);
            }
        }
        places
    }

    /// The tree. A Prefix is three keys, `/a`, `/a/` and `/a/{*rest}`, because a catch-all does
    /// not match nothing; `/a/` lacks the first of them. Each key is inserted once.
    fn tree(&self) -> Result<Tree, matchit::InsertError> {
        let mut literal = BTreeSet::new();
        let mut below = BTreeSet::new();
        for prefix in self.prefix.keys() {
            let elements = prefix.strip_suffix('/').unwrap_or(prefix);
            literal.insert((*prefix).to_owned());
            literal.insert(format!("{elements}/"));
            below.insert(format!("{elements}/"));
        }
        for path in self.exact.keys().chain(self.slash.keys()) {
            literal.insert((*path).to_owned());
        }
        // The empty path is no place of the tree; `everything` answers for it.
        literal.remove("");

        let mut router = matchit::Router::new();
        for base in &below {
            let key = format!("{}{{*rest}}", escaped(base));
            router.insert(key, self.ancestors(base).collect())?;
        }
        for path in &literal {
            router.insert(escaped(path), self.candidates(path))?;
        }
        Ok(Tree {
            router,
            everything: self.ancestors("/").collect(),
        })
    }

    /// The routes that fit a path, best first: the order of [`List`] in the form of look-ups.
    fn candidates(&self, path: &str) -> Candidates {
        let own = [&self.exact, &self.prefix, &self.slash]
            .into_iter()
            .filter_map(|map| map.get(path).map(|route| Arc::clone(route)));
        let shorter = self
            .ancestors(path)
            .filter(|route| *route.key.path.path != *path);
        own.chain(shorter).collect()
    }

    /// The prefixes that hold the first elements of a path, longest first. For a path that ends
    /// with a slash these are also the prefixes of everything below it.
    fn ancestors(&self, path: &str) -> impl Iterator<Item = Arc<Route>> {
        let whole = std::iter::once(path.len());
        let cuts = path
            .rmatch_indices('/')
            .flat_map(|(index, _)| [index + 1, index]);
        let mut last = usize::MAX;
        whole
            .chain(cuts)
            .filter(move |&length| std::mem::replace(&mut last, length) != length)
            .filter_map(|length| self.prefix.get(path.get(..length)?))
            .map(|route| Arc::clone(route))
            .collect::<Vec<_>>()
            .into_iter()
    }
}

/// Braces have a meaning in keys of the tree.
fn escaped(path: &str) -> String {
    path.replace('{', "{{").replace('}', "}}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::model::{ActionPlan, HostPattern, HostPlan, ObjectRef, PolicySpec};
    use crate::model::{RouteKey, RoutePlan};

    fn routes(paths: &[(PathKind, &str, Option<&str>)]) -> Vec<Arc<Route>> {
        let origin = ObjectRef {
            kind: "Ingress".into(),
            namespace: "n".into(),
            name: "i".into(),
        };
        let routes = paths.iter().map(|&(kind, path, slash)| {
            Arc::new(RoutePlan {
                key: RouteKey {
                    host: HostPattern::Any,
                    path: PathMatch {
                        kind,
                        path: path.into(),
                    },
                    origin: origin.clone(),
                },
                field: "spec".into(),
                policies: slash
                    .map(|path| PolicySpec::TrailingSlash { path: path.into() })
                    .into_iter()
                    .collect(),
                action: ActionPlan::NotFound,
            })
        });
        let plan = HostPlan {
            host: HostPattern::Any,
            routes: routes.collect(),
            tls: None,
        };
        let table = crate::table::compile(&plan, |_| None, &Metrics::new());
        table.routes().to_vec()
    }

    #[test]
    fn the_tree_answers_like_the_list_with_all_candidates_in_order() {
        use PathKind::{Exact, Prefix};
        let routes = routes(&[
            (Exact, "/a/b", None),
            (Exact, "/{x}", None),
            (Prefix, "/", None),
            (Prefix, "/a", None),
            (Prefix, "/a/b/", Some("/a/b")),
            (Prefix, "/c/", Some("/c")),
        ]);
        let list = List::new(&routes);
        let tree = Places::new(&routes).tree().unwrap();
        for path in [
            "/", "*", "/a", "/a/", "/a/b", "/a/b/", "/a/b/c", "/ab", "/c", "/c/", "/{x}", "/x",
        ] {
            let listed: Vec<_> = list.candidates(path).map(Arc::as_ptr).collect();
            let found: Vec<_> = tree.candidates(path).iter().map(Arc::as_ptr).collect();
            assert_eq!(listed, found, "{path}");
            assert!(!listed.is_empty());
        }
    }

    #[test]
    fn a_host_without_a_route_for_everything_answers_nothing_elsewhere() {
        let routes = routes(&[(PathKind::Prefix, "/a", None)]);
        let list = List::new(&routes);
        let tree = Places::new(&routes).tree().unwrap();
        for (path, count) in [("/a/x", 1), ("/b", 0), ("*", 0), ("", 0)] {
            assert_eq!(list.candidates(path).count(), count);
            assert_eq!(tree.candidates(path).len(), count);
        }
    }
}
