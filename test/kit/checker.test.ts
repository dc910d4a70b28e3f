import t from 'tap'
import Type from 'typebox'
import { checkerOf } from '../../src/core/kit/checker.ts'

t.test('a schema says the same whether it is followed as it stands or compiled', async (t) => {
  const checker = checkerOf(
    Type.Object(
      { name: Type.String({ pattern: '^[a-z]+$', maxLength: 3 }), ports: Type.Array(Type.Integer({ maximum: 9 })) },
      { additionalProperties: false },
    ),
  )
  const rows = [
    { value: { name: 'abc', ports: [1, 2] }, faults: [] },
    { value: { name: 'ABC', ports: [] }, faults: ['/name'] },
    { value: { name: 'abcd', ports: [10, 1.5] }, faults: ['/name', '/ports/0', '/ports/1'] },
    { value: { name: 'abc', ports: [], more: 1 }, faults: [''] },
    { value: null, faults: [''] },
    { value: '{}', faults: [''] },
  ]
  for (let use = 1; use <= 3; use++)
    for (const { value, faults } of rows) {
      t.equal(checker.Check(value), faults.length === 0, `${JSON.stringify(value)}, ${use}`)
      const found = checker.Errors(value).filter(({ keyword }) => keyword !== 'boolean')
      t.same([...new Set(found.map(({ instancePath }) => instancePath))], faults)
    }
})
