import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join, resolve } from 'node:path'
import { hasTool } from '../../src/lab/system-tools.ts'

/*
 * prometheus and promtool, of Debian's package `prometheus`. Where it is not installed, the package is unpacked beside node_modules:
 * installing it would start a Prometheus.
 */
const UNPACKED = resolve(import.meta.dirname, '../../node_modules/.cache/hedgerow-prometheus')
const PROGRAMS = ['prometheus', 'promtool']

/** The folder with both programs; `undefined` where they cannot be had. */
export function prometheusFolder(): string | undefined {
  const hasBoth = (folder: string) => PROGRAMS.every((program) => existsSync(join(folder, program)))
  const folder = [...(process.env['PATH'] ?? '').split(delimiter), UNPACKED].find(hasBoth)
  if (folder !== undefined) return folder
  if (!hasTool('apt-get') || !hasTool('dpkg-deb')) return undefined
  const work = mkdtempSync(join(tmpdir(), 'hedgerow-prometheus-'))
  try {
    const download = () =>
      spawnSync('apt-get', ['download', '-qq', 'prometheus'], { cwd: work, stdio: 'ignore' }).status
    if (download() !== 0 && (spawnSync('apt-get', ['update'], { stdio: 'ignore' }).status !== 0 || download() !== 0))
      return undefined
    for (const name of readdirSync(work)) spawnSync('dpkg-deb', ['--extract', join(work, name), join(work, 'unpacked')])
    mkdirSync(UNPACKED, { recursive: true })
    for (const program of PROGRAMS) {
      const path = join(UNPACKED, program)
      spawnSync('cp', [join(work, 'unpacked/usr/bin', program), `${path}.new`])
      renameSync(`${path}.new`, path)
    }
    return UNPACKED
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
}
