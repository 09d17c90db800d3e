package key
import ("testing";"fmt")
type b struct{ Head; ID NodeID `cbor:"1,keyasint"`; L []Hash `cbor:"2,keyasint"`; P PersonPublic `cbor:"3,keyasint"`; S string `cbor:"4,keyasint"`}
func TestSmoke(t *testing.T){
 n:=GenerateNode(); v:=&b{ID:n.ID(),S:"x"}
 e:=Marshal(v); fmt.Printf("%x\n",e)
 var w b; if err:=Unmarshal(e,&w);err!=nil{t.Fatal(err)}
 o:=Sign(n,NetworkID{1},TypePrepared,e); eb:=o.Encode(); fmt.Printf("%x\n",eb)
 o2,err:=DecodeObject(eb); if err!=nil{t.Fatal(err)}
 if err:=o2.Verify(NetworkID{1},TypePrepared);err!=nil{t.Fatal(err)}
 fmt.Println(n, fmt.Sprintf("%v %+v %x %#v",n,n,n,n), n.ID(), n.ID().Fingerprint())
 for i:=range eb{ c:=append([]byte(nil),eb...); c[i]^=1; if o3,err:=DecodeObject(c);err==nil && o3.Verify(NetworkID{1},TypePrepared)==nil{t.Fatal(i)}}
}
func BenchmarkVerify(bb *testing.B){n:=GenerateNode();o:=Sign(n,NetworkID{1},TypePrepared,make([]byte,1000));for bb.Loop(){o.Verify(NetworkID{1},TypePrepared)}}
func BenchmarkCheck(bb *testing.B){n:=GenerateNode();for bb.Loop(){CheckPublic(n.Public())}}
