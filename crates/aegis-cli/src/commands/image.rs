//! `aegis image`.

mod directory;

use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use aegis_api::error::ErrorCode;
use aegis_api::image::{Image, ImageConfig, ImagesRemoved, LayerStage, PullPolicy, PullProgress};
use aegis_client::{Client, ClientError, Upload};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::arguments::format::{Format, OutputFormat};
use crate::arguments::image::{ImageInfo, ImageLoad, ImageNames, ImagePrune, ImagePull, ImageSave, ImageTag};
use crate::byte_size::size;
use crate::failure::Failure;
use crate::render::{columns, shell_line};
use crate::{Context, output, text};

/// Size of the pieces in which an archive is sent, bytes.
const PIECE: usize = 256 << 10;
/// First digits of a digest, with their prefix.
const SHORT: std::ops::Range<usize> = 7..19;

fn short(digest: &str) -> &str {
    digest.get(SHORT).unwrap_or(digest)
}

/// Pulls an image, with bars on a terminal.
async fn pull_shown(client: &Client, reference: &str, quiet: bool) -> Result<Image, Failure> {
    let mut pull = client.pull(reference).await?;
    let mut bars = Bars::new(!quiet && io::stderr().is_terminal());
    while let Some(progress) = pull.next().await? {
        bars.show(&progress);
        if let Some(error) = progress.error {
            return Err(error.into());
        }
        if let Some(image) = progress.image {
            return Ok(image);
        }
    }
    Err(Failure::new("aegisd ended before the image was there"))
}

/// One bar for each layer.
struct Bars {
    all: Option<MultiProgress>,
    layers: Vec<ProgressBar>,
}

impl Bars {
    fn new(shown: bool) -> Bars {
        Bars { all: shown.then(MultiProgress::new), layers: Vec::new() }
    }

    fn show(&mut self, progress: &PullProgress) {
        let Some(all) = &self.all else { return };
        let style = ProgressStyle::with_template(
            "{prefix}  {bar:30}  {decimal_bytes:>9} of {decimal_total_bytes:<9}  {msg}",
        );
        for layer in progress.layers.get(self.layers.len()..).unwrap_or_default() {
            let bar = all.add(ProgressBar::new(layer.total));
            bar.set_style(style.as_ref().map_or_else(|_| ProgressStyle::default_bar(), Clone::clone));
            bar.set_prefix(short(&layer.digest).to_owned());
            self.layers.push(bar);
        }
        for (bar, layer) in self.layers.iter().zip(&progress.layers) {
            bar.set_position(layer.done);
            bar.set_message(match layer.stage {
                LayerStage::Waiting => "waiting",
                LayerStage::Downloading => "downloading",
                LayerStage::Unpacking => "unpacking",
                LayerStage::Ready => "ready",
            });
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        for bar in &self.layers {
            bar.finish_and_clear();
        }
    }
}

/// Makes sure that an instance's image is here, with bars on a terminal; creating the instance would do so silently.
///
/// # Errors
/// If it cannot be had.
pub async fn make_ready(client: &mut Client, name: &str, policy: PullPolicy) -> Result<(), Failure> {
    let absent = match policy {
        PullPolicy::Never => false,
        PullPolicy::Always => true,
        PullPolicy::Missing => match client.image(name).await {
            Ok(_) => false,
            Err(ClientError::Api(error)) if error.code == ErrorCode::ImageNotFound => true,
            Err(error) => return Err(error.into()),
        },
    };
    if absent {
        pull_shown(client, name, false).await?;
    }
    Ok(())
}

/// Pulls an image.
///
/// # Errors
/// If it cannot be had.
pub async fn pull(context: &Context, arguments: &ImagePull) -> Result<i32, Failure> {
    let image = pull_shown(&context.client(), &arguments.reference, arguments.quiet).await?;
    match arguments.format.output {
        OutputFormat::Json => output::json(&image),
        OutputFormat::Text => output::line(format!("{} ready: {}", arguments.reference, image.digest)),
    }
}

/// Lists images.
///
/// # Errors
/// If the daemon cannot be asked.
pub async fn list(context: &Context, format: Format) -> Result<i32, Failure> {
    let images = context.client().images().await?;
    if format.output == OutputFormat::Json {
        return output::json(&images);
    }
    if images.is_empty() {
        return output::line("No images");
    }
    let head = ["IMAGE", "DIGEST", "SIZE", "USED BY"].map(str::to_owned);
    let row = |name: String, image: &Image| {
        let users = if image.used_by.is_empty() { "-".to_owned() } else { image.used_by.join(", ") };
        [name, short(&image.digest).to_owned(), size(image.size), users]
    };
    let rows = images.iter().flat_map(|image| {
        let names = if image.names.is_empty() { vec!["-".to_owned()] } else { image.names.clone() };
        names.into_iter().map(move |name| row(name, image))
    });
    output::line(columns(&std::iter::once(head).chain(rows).collect::<Vec<_>>()))
}

/// Describes an image.
///
/// # Errors
/// If there is none.
pub async fn info(context: &Context, arguments: &ImageInfo) -> Result<i32, Failure> {
    let image = context.client().image(&arguments.image).await?;
    if arguments.format.output == OutputFormat::Json {
        return output::json(&image);
    }
    let or_dash = |texts: &[String]| {
        if texts.is_empty() { "-".to_owned() } else { text::field(&texts.join(", ")).into_owned() }
    };
    let mut described = format!(
        "Digest:       {}\nNames:        {}\nSize:         {}\nArchitecture: {}\nCreated:      {}\nReady since:  {}\nUsed by:      {}",
        image.digest,
        or_dash(&image.names),
        size(image.size),
        text::field(&image.architecture),
        text::field(image.created.as_deref().unwrap_or("-")),
        image.prepared_at,
        or_dash(&image.used_by),
    );
    described.push_str(&meant(image.config.as_ref()));
    described.push_str("\nEnvironment:");
    for (name, value) in &image.env {
        described = format!("{described}\n  {}={}", text::field(name), text::field(value));
    }
    described.push_str("\nLayers:");
    for layer in &image.layers {
        described = format!("{described}\n  {}  {}", short(&layer.digest), size(layer.size));
    }
    output::line(described)
}

/// How an image's maker meant it to be run: what users type has to say it.
fn meant(config: Option<&ImageConfig>) -> String {
    let Some(config) = config else { return String::new() };
    let line = |words: &[String]| {
        if words.is_empty() { "-".to_owned() } else { text::field(&shell_line(words)).into_owned() }
    };
    let mut lines =
        format!("\nEntrypoint:   {}\nCommand:      {}", line(&config.entrypoint), line(&config.cmd));
    if let Some(dir) = &config.working_dir {
        lines = format!("{lines}\nWorking dir:  {} (not used: say it with --workdir)", text::field(dir));
    }
    if let Some(user) = &config.user {
        let name = user.split(':').next().unwrap_or_default();
        let note = if matches!(name, "" | "0" | "root") { "" } else { " (not used: say it with --user)" };
        lines = format!("{lines}\nUser:         {}{note}", text::field(user));
    }
    if !config.exposed_ports.is_empty() {
        let ports = config.exposed_ports.join(", ");
        lines = format!("{lines}\nPorts:        {} (not used: say it with --expose)", text::field(&ports));
    }
    lines
}

fn told(removed: &ImagesRemoved) -> String {
    let mut text = String::new();
    for name in &removed.names {
        text = format!("{text}Untagged: {name}\n");
    }
    for digest in &removed.images {
        text = format!("{text}Deleted: {digest}\n");
    }
    format!("{text}Freed: {}", size(removed.bytes))
}

/// Gives an image a name.
///
/// # Errors
/// If there is no such image, or the name is none.
pub async fn tag(context: &Context, arguments: &ImageTag) -> Result<i32, Failure> {
    let image = context.client().tag_image(&arguments.image, &arguments.name).await?;
    match arguments.format.output {
        OutputFormat::Json => output::json(&image),
        OutputFormat::Text => output::line(format!("Tagged: {} is {}", arguments.name, image.digest)),
    }
}

/// Removes images. All are tried.
///
/// # Errors
/// If standard output cannot be written.
pub async fn remove(context: &Context, names: &ImageNames) -> Result<i32, Failure> {
    let mut client = context.client();
    output::each(&names.images, async |name| client.remove_image(name).await.map(|removed| told(&removed)))
        .await
}

/// Removes images that nobody needs.
///
/// # Errors
/// If the daemon cannot be asked.
pub async fn prune(context: &Context, arguments: &ImagePrune) -> Result<i32, Failure> {
    let removed = context.client().prune_images(arguments.all).await?;
    match arguments.format.output {
        OutputFormat::Json => output::json(&removed),
        OutputFormat::Text => output::line(told(&removed)),
    }
}

/// Loads an archive or a directory.
///
/// # Errors
/// If it cannot be read, or is not valid.
pub async fn load(context: &Context, arguments: &ImageLoad) -> Result<i32, Failure> {
    arguments.input.as_deref().map_or(Ok(()), readable)?;
    let (upload, loaded) = context.client().load();
    let input = arguments.input.clone();
    let fed = tokio::task::spawn_blocking(move || feed(input.as_deref(), upload));
    let (loaded, fed) = tokio::join!(loaded, fed);
    let fed = fed.map_err(|_| Failure::new("the archive was not read"))?;
    let loaded = match (loaded, fed) {
        // Whose reader has gone is told why by that reader.
        (Err(error), _) => return Err(error.into()),
        (Ok(_), Err(failure)) => return Err(failure),
        (Ok(loaded), Ok(())) => loaded,
    };
    for what in &loaded.left {
        output::say(&format!("left out: {what}"));
    }
    let images = loaded.images;
    if arguments.format.output == OutputFormat::Json {
        return output::json(&images);
    }
    let named =
        |image: &Image| if image.names.is_empty() { image.digest.clone() } else { image.names.join(", ") };
    output::line(
        images.iter().map(|image| format!("Loaded: {}", named(image))).collect::<Vec<_>>().join("\n"),
    )
}

/// Fails before anything is sent of what cannot be opened. A pipe is not opened: whoever writes to it would take that for all.
fn readable(input: &Path) -> Result<(), Failure> {
    let looked = input.metadata().and_then(|meta| {
        if meta.is_file() || meta.is_dir() { std::fs::File::open(input).map(drop) } else { Ok(()) }
    });
    looked.map_err(|error| Failure::new(format!("cannot read {}: {error}", input.display())))
}

fn feed(input: Option<&Path>, upload: Upload) -> Result<(), Failure> {
    let mut sender = Sending { upload, runtime: tokio::runtime::Handle::current() };
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |error: io::Error| Failure::new(format!("cannot read {path}: {error}"))
    };
    let outcome = match input {
        None => pass(io::stdin().lock(), &mut sender)
            .map_err(|error| Failure::new(format!("cannot read: {error}"))),
        Some(path) if path.is_dir() => {
            directory::archive(path, io::BufWriter::with_capacity(PIECE, &mut sender)).map_err(failed(path))
        }
        Some(path) => {
            std::fs::File::open(path).and_then(|file| pass(file, &mut sender)).map_err(failed(path))
        }
    };
    match outcome {
        Ok(()) => Ok(()),
        Err(failure) => {
            // Half an archive must not pass for a whole one.
            sender.upload.abort();
            Err(failure)
        }
    }
}

fn pass(mut from: impl Read, to: &mut Sending) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let count = from.read(&mut piece)?;
        if count == 0 {
            return Ok(());
        }
        to.write_all(piece.get(..count).unwrap_or_default())?;
    }
}

/// An upload, as whoever blocks writes it.
struct Sending {
    upload: Upload,
    runtime: tokio::runtime::Handle,
}

impl Write for Sending {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.runtime.block_on(self.upload.send(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Saves images to a file, or to standard output if that is no terminal.
///
/// # Errors
/// If there is no such image, or the archive cannot be written.
pub async fn save(context: &Context, arguments: &ImageSave) -> Result<i32, Failure> {
    let Some(path) = &arguments.out else {
        if io::stdout().is_terminal() {
            return Err(Failure::new(
                "an archive is nothing for a terminal: name a file with --out, or use a pipe",
            ));
        }
        return copy(context, arguments, output::bytes).await;
    };
    let failed =
        |error: &dyn std::fmt::Display| Failure::new(format!("cannot write {}: {error}", path.display()));
    // A pipe or a device is written to, and not replaced.
    if std::fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        let mut to = std::fs::File::options().write(true).open(path).map_err(|error| failed(&error))?;
        let write = |bytes: &[u8]| to.write_all(bytes).map(|()| 0).map_err(|error| failed(&error));
        return copy(context, arguments, write).await;
    }
    // Under another name until it is whole: one that nobody else has, and the name itself is not followed.
    let dir = path
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .map_or_else(|| PathBuf::from("."), PathBuf::from);
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(|error| failed(&error))?;
    copy(context, arguments, |bytes| file.write_all(bytes).map(|()| 0).map_err(|error| failed(&error)))
        .await?;
    file.persist(path).map_err(|error| failed(&error))?;
    Ok(0)
}

async fn copy(
    context: &Context,
    arguments: &ImageSave,
    mut to: impl FnMut(&[u8]) -> Result<i32, Failure>,
) -> Result<i32, Failure> {
    let mut archive = context.client().save(&arguments.images).await?;
    while let Some(bytes) = archive.next().await? {
        let code = to(&bytes)?;
        if code != 0 {
            return Ok(code);
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_tells_how_it_was_meant_to_be_run() {
        let config = ImageConfig {
            entrypoint: vec!["/bin/sh".into(), "-c".into(), "echo a b".into()],
            user: Some("1000:50".into()),
            exposed_ports: vec!["80/tcp".into()],
            ..ImageConfig::default()
        };
        let told = meant(Some(&config));
        assert!(
            told.starts_with(
                "\nEntrypoint:   /bin/sh -c 'echo a b'\nCommand:      -\nUser:         1000:50 (not used"
            ),
            "{told}"
        );
        assert!(told.contains("\nPorts:        80/tcp (not used"), "{told}");
        let root = ImageConfig { user: Some("root".into()), ..ImageConfig::default() };
        assert!(meant(Some(&root)).ends_with("User:         root"));
        assert_eq!(meant(None), "", "a daemon that does not say");
    }

    #[test]
    fn sizes_are_as_docker_shows_them() {
        assert_eq!(size(999), "999 B");
        assert_eq!(size(7_654_321), "7.7 MB");
        assert_eq!(size(1_260_000_000), "1.3 GB");
    }
}
