//! The usage of a disk over days, as a figure for the docs.

use std::fs;

use plotters::prelude::*;

/// Width and height, pixels.
const SIZE: (u32, u32) = (900, 420);

/// The program's default limits, percent, and what begins there.
const LIMITS: [(i64, &str); 3] = [(70, "target"), (80, "threshold"), (95, "critical")];

/// Print an SVG figure of these files, each given as `NAME=FILE` with lines of hours and percent.
///
/// # Panics
/// When a file cannot be read.
#[expect(clippy::print_stdout, reason = "this is the result")]
pub fn draw(files: &[String]) {
    let mut series = Vec::new();
    for file in files {
        let (name, path) = file.split_once('=').expect("NAME=FILE");
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let point = |line: &str| {
            let (hour, percent) = line.split_once(' ')?;
            Some((hour.parse::<f64>().ok()? / 24.0, percent.parse::<i64>().ok()?))
        };
        series.push((name, text.lines().filter_map(point).collect::<Vec<_>>()));
    }
    let mut svg = String::new();
    plot(&mut svg, &series).expect("draw the figure");
    println!("{svg}");
}

type Series<'a> = [(&'a str, Vec<(f64, i64)>)];

fn plot(svg: &mut String, series: &Series) -> Result<(), Box<dyn std::error::Error>> {
    let days = series.iter().flat_map(|(_, points)| points).map(|(day, _)| *day).fold(1.0, f64::max);
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(44)
        .build_cartesian_2d(0.0..days, 0_i64..100)?;
    let day = |day: &f64| format!("{day:.0}");
    let mut mesh = chart.configure_mesh();
    mesh.disable_x_mesh().light_line_style(TRANSPARENT).x_desc("days").y_desc("disk, %");
    mesh.x_labels(15).x_label_formatter(&day).draw()?;
    for (limit, name) in LIMITS {
        chart.draw_series(LineSeries::new([(0.0, limit), (days, limit)], BLACK.mix(0.35).stroke_width(1)))?;
        let place = (days * 0.005, limit);
        chart.draw_series([Text::new(name, place, ("sans-serif", 12).into_font().color(&BLACK.mix(0.6)))])?;
    }
    // Colours that people with a colour vision deficiency can tell apart (Okabe and Ito).
    let colours =
        [RGBColor(0, 114, 178), RGBColor(213, 94, 0), RGBColor(0, 158, 115), RGBColor(204, 121, 167)];
    for ((name, points), colour) in series.iter().zip(colours) {
        chart
            .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    area.present()?;
    Ok(())
}
