//! Reads `/metrics` as Prometheus does.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::app::TestApp;

/// The series as they are written (`name{label="value",…}`), with their values.
#[derive(Debug)]
pub struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    pub async fn of(app: &TestApp) -> Scrape {
        let answer = app.client.get(app.at("/metrics")).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
        Scrape::read(&answer.text().await.unwrap())
    }

    /// Scrapes until a series has a value.
    ///
    /// # Panics
    /// After ten seconds, or if the series does not exist.
    pub async fn until(app: &TestApp, series: &str, value: f64) -> Scrape {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let scrape = Scrape::of(app).await;
            if scrape.get(series) == value {
                return scrape;
            }
            assert!(Instant::now() < deadline, "{series} is not {value}: {scrape:#?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn read(text: &str) -> Scrape {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let series = lines.map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
            (series.to_owned(), value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
        });
        Scrape(series.collect())
    }

    /// Returns the value of a series. A missing series is not the same as 0.
    ///
    /// # Panics
    /// If the series does not exist.
    pub fn get(&self, series: &str) -> f64 {
        *self.0.get(series).unwrap_or_else(|| panic!("no {series} in {self:#?}"))
    }

    /// Returns the labels of all series with this name.
    pub fn labels<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let rests = self.0.keys().filter_map(move |series| series.strip_prefix(name));
        rests.filter(|rest| rest.is_empty() || rest.starts_with('{'))
    }

    /// Asserts several values at once.
    pub fn check(&self, expected: &[(&str, f64)]) {
        for (series, value) in expected {
            assert_eq!(self.get(series), *value, "{series} in {self:#?}");
        }
    }
}
