import { chmodSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { readConfigFile } from '../../src/config/file.ts'

/** Whoever may write the configuration file decides what the agent does. */

t.test('a configuration file that everybody may write is refused, also behind a link', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'hedgerow-config-'))
  t.teardown(() => rmSync(dir, { recursive: true, force: true }))
  const path = join(dir, 'hedgerow.yaml')
  writeFileSync(path, 'log: { level: debug }\n')
  for (const mode of [0o600, 0o644, 0o664]) {
    chmodSync(path, mode)
    t.same(readConfigFile(path), { log: { level: 'debug' } }, mode.toString(8))
  }
  symlinkSync(path, join(dir, 'link.yaml'))
  for (const mode of [0o666, 0o602]) {
    chmodSync(path, mode)
    for (const named of [path, join(dir, 'link.yaml')]) {
      t.throws(() => readConfigFile(named), {
        code: 'CONFIG_INVALID',
        details: { reason: 'every user of this machine may change the file', remedy: /chmod o-w/ },
      })
    }
  }
  t.throws(() => readConfigFile(join(dir, 'none.yaml')), { code: 'CONFIG_INVALID' })
})
