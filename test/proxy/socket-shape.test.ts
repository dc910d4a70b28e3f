import { execFileSync } from 'node:child_process'
import { resolve } from 'node:path'
import t from 'tap'

const INLET = resolve(import.meta.dirname, '../../proxy/socket/inlet.ts')
/** Sockets that are collected one after the other, then one whose properties V8 keeps in fixed places, or in a hash table. */
const PROGRAM = `
  import { Socket } from 'node:net'
  const isFast = new Function('socket', 'return %HasFastProperties(socket)')
  for (let i = 0; i < 12; i++) {
    new Socket()
    await new Promise((resolve) => setImmediate(resolve))
    gc()
  }
  process.stdout.write(String(isFast(new Socket())))`

function isFast(program: string): string {
  const flags = ['--expose-gc', '--allow-natives-syntax', '--input-type=module']
  return execFileSync(process.execPath, [...flags, '-e', program], { encoding: 'utf8' })
}

t.test('sockets keep their properties in fixed places, whatever was collected before', (t) => {
  t.equal(isFast(`import ${JSON.stringify(INLET)}\n${PROGRAM}`), 'true')
  if (isFast(PROGRAM) === 'true') t.comment('this version of Node needs no model socket any more')
  t.end()
})
