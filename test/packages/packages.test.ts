import { join } from 'node:path'
import t from 'tap'
import { lacking } from '../../src/lab/namespace.ts'
import { run } from '../../src/lab/program.ts'
import { hasTool } from '../../src/lab/system-tools.ts'
import '../support/no-orphans.ts'

t.setTimeout(280_000)
const isDebian = hasTool('apt-get') && hasTool('dpkg-deb')
const skip = (await lacking()) ?? (isDebian ? false : 'needs Debian or Ubuntu')

t.test(
  'the Debian package, on a clean Debian without Node: two sites, a call across a NAT, removal',
  { skip },
  async (t) => {
    const program = join(import.meta.dirname, 'main.ts')
    const { code, stdout, stderr } = await run([process.execPath, program, '--quick'], { timeoutMs: 270_000 })
    t.comment(stdout)
    const steps = stdout.matchAll(/^(ok|NOT OK) +(.*)$/gm)
    for (const [, verdict, label = ''] of steps) t.equal(verdict, 'ok', label)
    t.equal(code, 0, `it ends well${code === 0 ? '' : `: ${stderr}`}`)
  },
)
