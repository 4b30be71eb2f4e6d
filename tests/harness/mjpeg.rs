//! A camera on the network: JPEG after JPEG over HTTP, of a wall before which a square stands still or jumps.

use std::io::Cursor;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use image::{GrayImage, ImageFormat, Luma};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Between two pictures.
const PERIOD: Duration = Duration::from_millis(100);
/// Where the square may stand.
const PLACES: u32 = 5;

/// What the camera does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scene {
    Still,
    /// The square jumps with each picture.
    Moving,
    /// It hangs: whoever is connected stays so and gets nothing.
    Frozen,
    /// Whoever is connected is dropped, and nobody is let in.
    Gone,
}

#[derive(Debug)]
pub(crate) struct MjpegCamera {
    address: SocketAddr,
    scene: watch::Sender<Scene>,
    _server: JoinSet<()>,
}

impl MjpegCamera {
    /// On a free port of this machine; nothing moves.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (scene, seen) = watch::channel(Scene::Still);
        let mut server = JoinSet::new();
        server.spawn(serve(listener, pictures().into(), seen));
        Self { address, scene, _server: server }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn shows(&self, scene: Scene) {
        self.scene.send_replace(scene);
    }
}

async fn serve(listener: TcpListener, pictures: Arc<[Vec<u8>]>, scene: watch::Receiver<Scene>) {
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = clients.join_next() => {}
            Ok((client, _)) = listener.accept() => {
                let (pictures, scene) = (pictures.clone(), scene.clone());
                clients.spawn(async move {
                    // A client that went away ends its own task.
                    let _ = show(client, &pictures, scene).await;
                });
            }
        }
    }
}

async fn show(mut client: TcpStream, pictures: &[Vec<u8>], mut scene: watch::Receiver<Scene>) -> std::io::Result<()> {
    let mut place = 0;
    let mut is_greeted = false;
    loop {
        let now = *scene.borrow_and_update();
        match now {
            Scene::Gone => return Ok(()),
            Scene::Frozen => {}
            Scene::Still | Scene::Moving => {
                if !is_greeted {
                    let mut asked = [0; 4096];
                    let length = client.read(&mut asked).await?;
                    // As Motion's own stream.
                    if asked[..length].starts_with(b"GET /current") {
                        let head = b"HTTP/1.0 200 OK\r\nContent-Type: image/jpeg\r\n\r\n";
                        return client.write_all(&[head, pictures[place].as_slice()].concat()).await;
                    }
                    // Whatever else it asks for, there is one picture here.
                    client.write_all(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n").await?;
                    is_greeted = true;
                }
                if now == Scene::Moving {
                    place = (place + 1) % pictures.len();
                }
                let picture = &pictures[place];
                let head = format!("--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n", picture.len());
                client.write_all(&[head.as_bytes(), picture, b"\r\n"].concat()).await?;
            }
        }
        tokio::select! {
            Ok(()) = scene.changed() => {}
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

fn pictures() -> Vec<Vec<u8>> {
    let picture = |place: u32| {
        let wall = GrayImage::from_fn(320, 240, |x, y| {
            let is_square = (place * 60..place * 60 + 60).contains(&x) && (90..150).contains(&y);
            Luma([if is_square { 250 } else { 90 }])
        });
        let mut bytes = Cursor::new(Vec::new());
        image::DynamicImage::from(wall).into_rgb8().write_to(&mut bytes, ImageFormat::Jpeg).unwrap();
        bytes.into_inner()
    };
    (0..PLACES).map(picture).collect()
}
