import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import test from 'node:test'
import fc from 'fast-check'
import type { Forward } from './forwarding.js'
import { buildTable, differenceScript, fullScript } from './nft-rules.js'

/** As much of nft as the scripts use: chains, map elements, and its refusal of whatever refers to nothing. */
class NftModel {
  readonly chains = new Map<string, string[]>()
  readonly maps = new Map<string, Map<string, string>>()

  run(script: string): void {
    for (const line of script.split('\n').filter(Boolean)) {
      const [verb, kind, , , name = '', ...rest] = line.split(' ')
      if (kind === 'table' && verb === 'delete') {
        this.chains.clear()
        this.maps.clear()
      } else if (verb === 'add' && kind === 'chain') {
        assert.ok(!this.chains.has(name), `chain ${name} added twice`)
        this.chains.set(name, [])
      } else if (verb === 'flush') this.chain(name).length = 0
      else if (verb === 'delete' && kind === 'chain') {
        assert.equal(this.chain(name).length, 0, `chain ${name} deleted with rules`)
        this.chains.delete(name)
        assert.ok(!this.references().has(name), `chain ${name} deleted while something refers to it`)
      } else if (verb === 'add' && kind === 'rule') this.chain(name).push(rest.join(' '))
      else if (verb === 'add' && kind === 'map') this.maps.set(name, new Map())
      else if (kind === 'element') {
        const map = this.maps.get(name)
        assert.ok(map, `no map ${name}`)
        const elements = rest
          .join(' ')
          .replace(/^\{ | \}$/g, '')
          .split(', ')
        for (const element of elements) {
          const [key = '', value = ''] = element.split(' : ')
          assert.equal(map.has(key), verb === 'delete', `${verb} element ${key}`)
          if (verb === 'delete') map.delete(key)
          else map.set(key, value)
        }
      }
    }
    for (const chain of this.references()) this.chain(chain)
  }

  state() {
    return {
      chains: [...this.chains].sort(),
      maps: [...this.maps].map(([name, elements]) => [name, [...elements].sort()]).sort(),
    }
  }

  private chain(name: string): string[] {
    const chain = this.chains.get(name)
    assert.ok(chain, `no chain ${name}`)
    return chain
  }

  private references(): Set<string> {
    const text = [...this.chains.values(), ...[...this.maps.values()].map((m) => [...m.values()])].flat().join('\n')
    return new Set([...text.matchAll(/goto ([\w-]+)/g)].map((m) => m[1] as string))
  }
}

const target = fc.record({
  address: fc.integer({ min: 1, max: 6 }).map((n) => `10.244.0.${n}`),
  port: fc.constantFrom(80, 8080),
})
const targets = fc.uniqueArray(target, { maxLength: 4, selector: (t) => `${t.address}:${t.port}` })
const forwards = fc
  .uniqueArray(fc.record({ id: fc.integer({ min: 1, max: 8 }), targets, sticky: fc.boolean(), node: fc.boolean() }), {
    maxLength: 6,
    selector: (f) => f.id,
  })
  .map((list) =>
    list.map(
      (f): Forward => ({
        name: `default/service-${f.id}:http`,
        protocol: 'tcp',
        addresses: [`10.96.0.${f.id}`],
        port: 80,
        nodePort: f.node ? 30_000 + f.id : undefined,
        sticky: f.sticky,
        targets: f.targets,
        nodePortTargets: f.targets,
      }),
    ),
  )

test('the difference brings any table to any other, and never refers to what is not there', () => {
  fc.assert(
    fc.property(forwards, forwards, (before, after) => {
      const stepwise = new NftModel()
      stepwise.run(fullScript('capstan', buildTable(before)))
      stepwise.run(differenceScript('capstan', buildTable(before), buildTable(after)))
      const atOnce = new NftModel()
      atOnce.run(fullScript('capstan', buildTable(after)))
      assert.deepEqual(stepwise.state(), atOnce.state())
    }),
  )
})

test('no difference, no script', () => {
  fc.assert(
    fc.property(forwards, (list) => assert.equal(differenceScript('capstan', buildTable(list), buildTable(list)), '')),
  )
})

const canUseNft =
  process.getuid?.() === 0 &&
  spawnSync('nft', ['--version']).status === 0 &&
  spawnSync('unshare', ['--net', 'true']).status === 0

test('nft itself takes the scripts', { skip: canUseNft ? false : 'needs root, nft and network namespaces' }, () => {
  const some = buildTable(fc.sample(forwards, { numRuns: 1, seed: 7 })[0] ?? [])
  const other = buildTable(fc.sample(forwards, { numRuns: 1, seed: 8 })[0] ?? [])
  const script = `${fullScript('capstan', some)}${differenceScript('capstan', some, other)}`
  const ran = spawnSync('unshare', ['--net', 'nft', '-f', '-'], { input: script, encoding: 'utf8' })
  assert.equal(ran.status, 0, ran.stderr)
})
