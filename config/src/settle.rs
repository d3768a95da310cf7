//! What becomes of the objects of one kind: each by itself, then next to those that were accepted before it.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::error::{ObjectError, Outcome, Report};
use crate::objects::{Configures, Object, ObjectRef, Snapshot};
use crate::problem::Problem;
use crate::surroundings::Surroundings;

/// One reading of the whole configuration.
pub(crate) struct Pass<'a> {
    /// The objects as they are now.
    pub(crate) snapshot: &'a Snapshot,
    /// The cluster around them.
    pub(crate) surroundings: &'a Surroundings,
    /// The versions that were in force before.
    pub(crate) sources: &'a Snapshot,
    /// The mistakes so far.
    pub(crate) errors: Vec<ObjectError>,
}

/// What was made of the objects of one kind.
pub(crate) struct Settled<M> {
    /// What is in force, by name.
    pub(crate) models: BTreeMap<String, M>,
    /// Some object is left out.
    pub(crate) missing: bool,
}

/// The rules of one kind.
pub(crate) struct Rules<Read, Check, Accept> {
    /// Reads an object by itself, and reports every mistake.
    pub(crate) read: Read,
    /// Reports what is wrong with a model next to those accepted already. The object is the one that it was read from,
    /// for the texts that stand there; there is none when an older version is looked at.
    pub(crate) check: Check,
    /// Takes note of a model that is in force.
    pub(crate) accept: Accept,
}

/// Goes over the objects of type `O`, oldest first: one that does not fit to an older one yields to it. An object that
/// is wrong stands as it did in `last`, if that still fits.
pub(crate) fn settle<O, M, S>(
    pass: &mut Pass<'_>,
    last: &BTreeMap<String, M>,
    mut state: S,
    rules: Rules<impl Fn(&O, &mut Report) -> Option<M>, impl Fn(&S, &M, Option<&O>, &mut Report), impl Fn(&mut S, &M)>,
) -> Settled<M>
where
    O: Configures,
    M: Clone,
{
    let mut objects = of_kind::<O>(pass.snapshot).collect::<Vec<_>>();
    objects.sort_by_key(|(of, object)| (age(object), &of.name));
    let mut settled = Settled {
        models: BTreeMap::new(),
        missing: false,
    };
    for (of, object) in objects {
        let mut report = Report::of(of);
        let read = match object {
            Ok(object) => (rules.read)(object, &mut report).inspect(|model| {
                if report.is_empty() {
                    (rules.check)(&state, model, Some(object), &mut report);
                }
            }),
            Err(error) => {
                report.push("", "", Problem::Unreadable(error.to_owned()));
                None
            }
        };
        let model = match read.filter(|_| report.is_empty()) {
            Some(model) => Some(model),
            None => {
                let fits = |old: &&M| {
                    let mut report = Report::of(of);
                    (rules.check)(&state, old, None, &mut report);
                    report.is_empty()
                };
                let old = last.get(&of.name).filter(|_| pass.is_same(of)).filter(fits).cloned();
                pass.errors.extend(report.into_errors(match old {
                    Some(_) => Outcome::LastGood,
                    None => Outcome::LeftOut,
                }));
                old
            }
        };
        match model {
            Some(model) => {
                (rules.accept)(&mut state, &model);
                settled.models.insert(of.name.clone(), model);
            }
            None => settled.missing = true,
        }
    }
    settled
}

/// For kinds of which no two objects can be in each other's way.
pub(crate) fn settle_each<O, M>(
    pass: &mut Pass<'_>,
    last: &BTreeMap<String, M>,
    read: impl Fn(&O, &mut Report) -> Option<M>,
) -> Settled<M>
where
    O: Configures,
    M: Clone,
{
    let rules = Rules {
        read,
        check: |(): &(), _: &M, _: Option<&O>, _: &mut Report| {},
        accept: |(): &mut (), _: &M| {},
    };
    settle(pass, last, (), rules)
}

impl Pass<'_> {
    /// Whether the object is the one that was in force before, and not one that was made anew under the same name.
    fn is_same(&self, of: &ObjectRef) -> bool {
        let (now, before) = (self.snapshot.get(of), self.sources.get(of));
        now.zip(before).is_none_or(|(now, before)| now.may_be_same(before))
    }
}

/// The objects of type `O`, or why one cannot be read.
fn of_kind<'a, O: Configures + 'a>(
    snapshot: &'a Snapshot,
) -> impl Iterator<Item = (&'a ObjectRef, Result<&'a O, &'a str>)> {
    let first = ObjectRef::new(O::KIND, "");
    let all = snapshot.range(first..).take_while(|(of, _)| of.kind == O::KIND);
    all.filter_map(|(of, object)| match object {
        Object::Unreadable(error) => Some((of, Err(&**error))),
        object => Some((of, Ok(O::of(object)?))),
    })
}

/// When it was made; one that cannot be read counts as old, for what stands of it stood before.
fn age<O: Configures>(object: &Result<&O, &str>) -> i64 {
    object.map_or(0, |object| created(object.metadata()))
}

fn created(metadata: &ObjectMeta) -> i64 {
    metadata.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second())
}
