//! What says which pod is meant, the same for each command that takes one, and the commands that only look.

use std::path::PathBuf;

use clap::Args;

use super::{
    FormatArg,
    examples::{CHECK_EXAMPLES, PS_EXAMPLES},
    usage_error,
};
use crate::{
    check::CheckProps,
    cluster::{ClusterProps, ImageSource, TargetName},
};

/// Means the target container's own image.
const AUTO: &str = "auto";

/// Which pod.
#[derive(Debug, Args)]
pub(super) struct PodArgs {
    /// Pod to look into: NAME, pod/NAME, deploy/NAME, sts/NAME, ds/NAME or job/NAME.
    #[arg(value_name = "TARGET")]
    pub(super) target: Option<String>,
    /// Namespace [default: the context's].
    #[arg(short, long, value_name = "NAMESPACE", help_heading = "Pod")]
    namespace: Option<String>,
    /// Container [default: as the pod's annotation says, else its first].
    #[arg(short, long, value_name = "NAME", help_heading = "Pod")]
    container: Option<String>,
    /// A ready pod with these labels instead of a TARGET.
    #[arg(short = 'l', long, value_name = "SELECTOR", help_heading = "Pod")]
    selector: Option<String>,
    /// Context of the kubeconfig.
    #[arg(long, value_name = "NAME", help_heading = "Pod")]
    context: Option<String>,
    /// Kubeconfig [default: as kubectl finds it].
    #[arg(long, value_name = "FILE", help_heading = "Pod")]
    kubeconfig: Option<PathBuf>,
    /// Image of the profiler's container, or auto: the target's own, into which the profiler is streamed [default: auto].
    #[arg(long, value_name = "auto|REF", value_parser = clap::builder::NonEmptyStringValueParser::new(), help_heading = "Pod")]
    image: Option<String>,
    /// Ask for a privileged container instead of five capabilities.
    #[arg(long, help_heading = "Pod")]
    privileged: bool,
}

/// Tell what would work in a pod, dimension by dimension, and why not. Adds the profiler's container to the pod.
#[derive(Debug, Args)]
#[command(after_help = CHECK_EXAMPLES)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    look: LookArgs,
}

/// List the processes of a pod that could be recorded. Adds the profiler's container to the pod.
#[derive(Debug, Args)]
#[command(after_help = PS_EXAMPLES)]
pub(super) struct PsArgs {
    #[command(flatten)]
    look: LookArgs,
}

#[derive(Debug, Args)]
struct LookArgs {
    #[command(flatten)]
    pod: PodArgs,
    /// Form of the answer.
    #[arg(short, long, value_enum, default_value_t = FormatArg::Text)]
    output: FormatArg,
    /// The profiler to bring instead of the one that this binary carries.
    #[arg(long, value_name = "PATH", env = "AIPROF_PROFILER", hide = true)]
    profiler: Option<PathBuf>,
}

impl PodArgs {
    /// A flag of this group that was given, if one was.
    pub(super) fn given(&self) -> Option<&'static str> {
        let flags = [
            ("--namespace", self.namespace.is_some()),
            ("--container", self.container.is_some()),
            ("--selector", self.selector.is_some()),
            ("--context", self.context.is_some()),
            ("--kubeconfig", self.kubeconfig.is_some()),
            ("--image", self.image.is_some()),
            ("--privileged", self.privileged),
        ];
        flags.into_iter().find_map(|(flag, given)| given.then_some(flag))
    }

    pub(super) fn cluster_props(&self, command: &str, profiler: Option<PathBuf>) -> Result<ClusterProps, clap::Error> {
        let target = match (&self.target, &self.selector) {
            (Some(target), None) => target.parse().map_err(|error: String| usage_error(command, &error))?,
            (None, Some(selector)) => TargetName::Selector(selector.clone()),
            (Some(_), Some(_)) => return Err(usage_error(command, "give a TARGET or -l SELECTOR, not both")),
            (None, None) => return Err(usage_error(command, "no pod: give a TARGET such as pod/NAME, or -l SELECTOR")),
        };
        Ok(ClusterProps {
            target,
            namespace: self.namespace.clone(),
            context: self.context.clone(),
            kubeconfig: self.kubeconfig.clone(),
            container: self.container.clone(),
            image: match self.image.as_deref() {
                None | Some(AUTO) => ImageSource::Auto,
                Some(image) => ImageSource::Image(image.to_owned()),
            },
            privileged: self.privileged,
            profiler,
        })
    }
}

impl CheckArgs {
    pub(super) fn check_props(self) -> Result<CheckProps, clap::Error> {
        self.look.check_props("check")
    }
}

impl PsArgs {
    pub(super) fn check_props(self) -> Result<CheckProps, clap::Error> {
        self.look.check_props("ps")
    }
}

impl LookArgs {
    fn check_props(self, command: &str) -> Result<CheckProps, clap::Error> {
        Ok(CheckProps { cluster: self.pod.cluster_props(command, self.profiler)?, format: self.output.into() })
    }
}
