import t from 'tap'
import { labContract } from '../contracts/lab.ts'
import { lacking } from '../../src/lab/namespace.ts'

t.setTimeout(280_000)
const skip = (await lacking()) ?? false

t.test('a lab of namespaces', { skip }, (t) => labContract('namespaces', t))
