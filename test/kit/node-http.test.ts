import { execFileSync } from 'node:child_process'
import { resolve } from 'node:path'
import t from 'tap'

/** Node's `fetch`, which an import of `node:http` loads: 13 MB. */
const LOADED = `process.stdout.write(process.moduleLoadList.filter((name) => name.includes('undici')).join())`

t.test('no role and no command loads what nothing here uses', (t) => {
  for (const file of ['src/cli/program.ts', 'src/roles/up.ts', 'proxy/relay/server.ts']) {
    const program = `await import(${JSON.stringify(resolve(import.meta.dirname, '../..', file))}); ${LOADED}; process.exit()`
    t.equal(execFileSync(process.execPath, ['--input-type=module', '-e', program], { encoding: 'utf8' }), '', file)
  }
  t.end()
})
