import { resolve } from 'node:path'
import t from 'tap'
import { run } from '../../src/lab/program.ts'

/** Every example runs, to its end. The shop is run by the demo. */

t.test('dice: a service that only speaks UDP', { timeout: 60_000 }, async (t) => {
  const { code, stdout, stderr } = await run(
    [process.execPath, resolve(import.meta.dirname, '../../examples/dice.ts')],
    { timeoutMs: 50_000 },
  )
  t.equal(code, 0, stderr)
  const rows = stdout.trim().split('\n')
  t.match(rows[0], /^dice\.demo\.roller\.demo\.any\.rr\.local:5000 is 127\.\d+\.\d+\.\d+$/)
  const rollers = rows
    .slice(1)
    .map((row) => /^player (\d) rolls ([1-6])( [1-6]){4} with dice\.demo\.roller\.demo\.([01])$/.exec(row))
  t.same(new Set(rollers.map((row) => row?.[1])), new Set(['1', '2', '3', '4']))
  const withFirst = rollers.filter((row) => row?.[4] === '0')
  t.equal(withFirst.length, 2, 'round robin: two players each, and each stays with its roller')
})

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
