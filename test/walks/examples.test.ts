import { resolve } from 'node:path'
import t from 'tap'
import { run } from '../lab/program.ts'

/** Every example runs, to its end. The shop is run by the demo. */

t.test('hello: a mesh inside a program', { timeout: 60_000 }, async (t) => {
  const { code, stdout, stderr } = await run(
    [process.execPath, resolve(import.meta.dirname, '../../examples/hello.ts')],
    { timeoutMs: 50_000 },
  )
  t.equal(code, 0, stderr)
  t.match(
    stdout,
    /^http:\/\/hello\.demo\.greeter\.demo\.any\.closest\.local:8080\/ is 127\.\d+\.\d+\.\d+\nhello from the mesh\n$/,
  )
})
