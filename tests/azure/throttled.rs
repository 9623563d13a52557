//! A service that takes no more requests: that is told in its own words, in time, and nothing is sent meanwhile.

use std::time::Duration;

use homeward::domain::ErrorClass;
use homeward::driver::ReplicationDriver as _;
use homeward_asr_emulator::{FabricKind, Fault, Rule, Seed, Settings};

use super::scenario::in_time;
use super::wire::Wire;

#[test]
fn a_long_pause_that_the_service_asks_for_is_told_of_and_kept() {
    in_time(async {
        let wire = Wire::new(&Seed::of(FabricKind::HyperVSite, 1), Settings::default());
        let driver = wire.driver();
        driver.observe().await.unwrap();
        let minute = Fault::Throttle {
            retry_after: Some(60),
        };
        let rule = Rule {
            times: Some(1),
            ..Rule::next("GET", "", minute)
        };
        wire.service().add_rule(rule).unwrap();
        tokio::time::sleep(Duration::from_secs(6)).await;
        let error = driver.observe().await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Throttled, "{error:?}");
        assert!(error.message.contains("429"), "{error:?}");
        let asked = || wire.service().requests().count();
        let before = asked();
        tokio::time::sleep(Duration::from_secs(6)).await;
        let error = driver.observe().await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Throttled, "{error:?}");
        assert!(error.message.contains("left alone until"), "{error:?}");
        assert_eq!(asked(), before, "nothing is sent in the pause");
        tokio::time::sleep(Duration::from_mins(1)).await;
        driver.observe().await.unwrap();
    });
}
