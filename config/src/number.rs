//! Numbers and seconds within what their field takes.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::error::Report;
use crate::problem::Problem;

/// `value` if it is in `range`; otherwise that is reported.
pub(crate) fn number<N, T>(
    report: &mut Report,
    field: impl Into<String>,
    value: N,
    range: RangeInclusive<T>,
) -> Option<T>
where
    N: Into<i64>,
    T: TryFrom<i64> + Into<i64> + PartialOrd + Copy,
{
    let value = value.into();
    let good = T::try_from(value).ok().filter(|value| range.contains(value));
    if good.is_none() {
        let (least, most) = ((*range.start()).into(), (*range.end()).into());
        let problem = Problem::Number { value, least, most };
        report.push(field, value.to_string(), problem);
    }
    good
}

/// So many seconds, from 0 to `most`.
pub(crate) fn seconds(report: &mut Report, field: &str, value: Option<u32>, most: u32) -> Option<Duration> {
    let seconds = number(report, field, value?, 0..=most)?;
    Some(Duration::from_secs(seconds.into()))
}

/// So many milliseconds, within `range`.
pub(crate) fn milliseconds(
    report: &mut Report,
    field: &str,
    value: Option<u32>,
    range: RangeInclusive<u32>,
) -> Option<Duration> {
    let milliseconds = number(report, field, value?, range)?;
    Some(Duration::from_millis(milliseconds.into()))
}
