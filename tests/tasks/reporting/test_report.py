def test_write(summary, tmp_path):
    from pathlib import Path
    from tasks.reporting import write_report, text_summary

    write_report(summary, Path("/tmp/report/report.html"))
    print(text_summary(summary))
