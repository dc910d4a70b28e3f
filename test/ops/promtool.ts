import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join, resolve } from 'node:path'
import { hasTool } from '../../src/lab/system-tools.ts'

/*
 * promtool, of Debian's package `prometheus`. Where it is not installed, the package is unpacked beside node_modules: installing it
 * would start a Prometheus.
 */
const UNPACKED = resolve(import.meta.dirname, '../../node_modules/.cache/hedgerow-promtool/promtool')

/** Its path; `undefined` where it cannot be had. */
export function promtool(): string | undefined {
  const folder = (process.env['PATH'] ?? '').split(delimiter).find((each) => existsSync(join(each, 'promtool')))
  if (folder !== undefined) return join(folder, 'promtool')
  if (existsSync(UNPACKED)) return UNPACKED
  if (!hasTool('apt-get') || !hasTool('dpkg-deb')) return undefined
  const work = mkdtempSync(join(tmpdir(), 'hedgerow-promtool-'))
  try {
    const download = () =>
      spawnSync('apt-get', ['download', '-qq', 'prometheus'], { cwd: work, stdio: 'ignore' }).status
    if (download() !== 0 && (spawnSync('apt-get', ['update'], { stdio: 'ignore' }).status !== 0 || download() !== 0))
      return undefined
    for (const name of readdirSync(work)) spawnSync('dpkg-deb', ['--extract', join(work, name), join(work, 'unpacked')])
    mkdirSync(dirname(UNPACKED), { recursive: true })
    spawnSync('cp', [join(work, 'unpacked/usr/bin/promtool'), `${UNPACKED}.new`])
    renameSync(`${UNPACKED}.new`, UNPACKED)
    return UNPACKED
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
}
